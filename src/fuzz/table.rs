//! How long the fuzzer, which knows nothing of their schedules, takes to find each known defect: `reports/defects.md`.
//!
//! Campaigns take turns, some seeds at a time, one per core: what is easy to find is in the table early. What each has
//! found is kept in a file of its own next to the report ([`Record`], one line each), so that a search that was ended
//! goes on where it stopped.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::campaign::{self, try_seed};
use super::examine::examine;
use super::shrink::{self, Budget};
use super::{Profile, generate};
use crate::defect::{Defect, Defects};
use crate::lab::run::{run_one, thread_cpu_time};
use crate::scenario::render;

/// Campaigns per defect: medians are of these.
pub const CAMPAIGNS: u64 = 5;
/// Seeds of a campaign, at most.
pub const SEEDS_MAX: u64 = 20_000;
/// Seeds before it is another campaign's turn.
const SEEDS_PER_TURN: u64 = 250;
/// Campaigns are this many seeds apart.
const SEEDS_APART: u64 = 1_000_000;
/// What one failure's shrinking may cost.
const SHRINKING: Budget = Budget { runs: 5_000, time: Duration::from_secs(60) };

/// Where to look, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// `None`: each defect where it belongs.
    pub profile: Option<Profile>,
    pub first_seed: u64,
    pub seeds: u64,
    pub jobs: usize,
}

impl Search {
    fn profile_of(&self, defect: Defect) -> Profile {
        self.profile.unwrap_or_else(|| home(defect))
    }
}

/// Tells one generator from another: a change of what it draws makes what was measured before worthless.
fn fingerprint(profile: Profile) -> String {
    const SEEDS: u64 = 16;
    let drawn: String = (1..=SEEDS).map(|seed| render(&generate::scenario(profile, seed), &[])).collect();
    format!("{:016x}", xxh3_64(drawn.as_bytes()))
}

/// The profile whose subject a defect spoils.
fn home(defect: Defect) -> Profile {
    match defect {
        Defect::TruncateToHw
        | Defect::OfleV0
        | Defect::SkipTruncationIfSameLeader
        | Defect::FetchNoEpochCheck
        | Defect::HwIsrCommitted
        | Defect::HwIsrBeforeCommit
        | Defect::EqualEpochDropsPending
        | Defect::HwFromLeaderLogEnd
        | Defect::IgnoreMinIsr
        | Defect::IsrNoLeso
        | Defect::IsrJoinBelowHw
        | Defect::KeepOldFollowerState
        | Defect::KeepOldFetchSession
        | Defect::AcceptStaleFetchResponse
        | Defect::NoLastFetchedEpoch
        | Defect::NoBrokerEpochInIsr
        | Defect::IsrCheckTwoReads
        | Defect::NoPartitionEpoch
        | Defect::ElectOutsideIsr
        | Defect::AcceptStaleRegistration
        | Defect::MetadataNoFsync
        | Defect::ReadHwTwice
        | Defect::ListoffsetsRawHw
        | Defect::AckAfterLeader
        | Defect::AckFromDeposedLeader
        | Defect::RetryUnordered
        | Defect::RetryForgetsAttempts
        | Defect::AckBeforeAppend => Profile::Replication,
        Defect::DeleteMarkerLate
        | Defect::TrustTimeindexTail
        | Defect::DeleteHorizonByMtime
        | Defect::EpochCheckpointNoFsync
        | Defect::KeepTornTail
        | Defect::FlushNoFsync
        | Defect::TruncationNoFsync
        | Defect::AppendUnchecked
        | Defect::ServeCorruptBatch => Profile::Storage,
        // Only there producers are idempotent, and consumers stand in racks.
        Defect::ProducerStateDropsWithRecords
        | Defect::NoDuplicateDetection
        | Defect::SequencesRestartInTheSameEpoch
        | Defect::SequencesReassignedUnordered
        | Defect::FollowerOutOfRangeResets => Profile::All,
        Defect::StaticRejoinNoRebalance
        | Defect::OwnedPartitionsNoGeneration
        | Defect::HeartbeatCompletesSyncTimer
        | Defect::OffsetExpiryByCommit
        | Defect::RejoinStaysFenced
        | Defect::ExpireDuringRebalance => Profile::Groups,
    }
}

/// One campaign, complete.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub defect: String,
    /// From 0 on.
    pub campaign: u64,
    /// `None`: not within the seeds of the search.
    pub hit: Option<Hit>,
    pub profile: String,
    pub first_seed: u64,
    pub seeds: u64,
    /// Wall time of search and shrinking.
    pub wall_ms: u64,
    /// What the generator drew: [`fingerprint`].
    pub generator: String,
}

/// What a campaign found first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hit {
    /// Tried, until it showed.
    seeds: u64,
    cpu_ms: u64,
    signature: String,
    faults: usize,
    shrinking_ms: u64,
    is_certified: bool,
}

impl Record {
    /// Whether it answers what this search asks.
    pub fn is_of(&self, search: &Search) -> bool {
        let Some(profile) = Defect::named(&self.defect).map(|defect| search.profile_of(defect)) else { return false };
        profile.name() == self.profile
            && self.generator == fingerprint(profile)
            && self.first_seed == search.first_seed
            && self.seeds == search.seeds
    }

    /// For the progress on stderr.
    pub fn line(&self) -> String {
        let Record { defect, campaign, hit, seeds, .. } = self;
        match hit {
            Some(Hit { seeds, cpu_ms, signature, faults, shrinking_ms, .. }) => format!(
                "{defect}, campaign {campaign}: {seeds} seeds, {:.1} CPU s, {faults} faults after {:.1} s: {signature}",
                seconds(*cpu_ms),
                seconds(*shrinking_ms)
            ),
            None => format!("{defect}, campaign {campaign}: not within {seeds} seeds"),
        }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// Runs the campaigns for `defects` that `known` does not hold yet; `done` gets each as it ends. `stop` ends the search
/// early: what was not finished is left out.
pub fn search(
    defects: &[Defect],
    search: &Search,
    known: &[Record],
    stop: &AtomicBool,
    done: impl Fn(&Record) + Sync,
) -> Vec<Record> {
    let is_known =
        |defect: Defect, number| known.iter().any(|record| record.defect == defect.name() && record.campaign == number);
    let hunts: VecDeque<Hunt> = (0..CAMPAIGNS)
        .flat_map(|number| defects.iter().map(move |defect| Hunt::new(*defect, number)))
        .filter(|hunt| !is_known(hunt.defect, hunt.number))
        .collect();
    let (hunts, records) = (Mutex::new(hunts), Mutex::new(known.to_vec()));
    let next = || hunts.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..search.jobs.max(1) {
            scope.spawn(|| {
                while let Some(mut hunt) = next().filter(|_| !stop.load(Ordering::Relaxed)) {
                    match hunt.go_on(search, stop) {
                        Some(record) => {
                            done(&record);
                            records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
                        }
                        None => hunts.lock().unwrap_or_else(PoisonError::into_inner).push_back(hunt),
                    }
                }
            });
        }
    });
    records.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A campaign under way.
struct Hunt {
    defect: Defect,
    number: u64,
    /// Seeds.
    tried: u64,
    cpu: Duration,
    wall: Duration,
}

impl Hunt {
    fn new(defect: Defect, number: u64) -> Hunt {
        Hunt { defect, number, tried: 0, cpu: Duration::ZERO, wall: Duration::ZERO }
    }

    /// One turn. `None`: it is not over, or was stopped.
    #[allow(clippy::disallowed_types, reason = "what a search takes is real time")]
    fn go_on(&mut self, search: &Search, stop: &AtomicBool) -> Option<Record> {
        let (profile, defects) = (search.profile_of(self.defect), Defects::NONE.with(self.defect));
        let first_seed = search.first_seed + self.number * SEEDS_APART;
        let (clock, before) = (std::time::Instant::now(), thread_cpu_time());
        let mut running = Duration::ZERO;
        let mut found = None;
        for _ in 0..SEEDS_PER_TURN.min(search.seeds - self.tried) {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let scenario = campaign::scenario(profile, defects, first_seed + self.tried);
            self.tried += 1;
            let outcome = run_one(&scenario, 0, scenario.seed);
            running += outcome.cpu.unwrap_or(Duration::from_millis(outcome.wall_ms));
            let Some(failure) = examine(&scenario.variants[0], &outcome) else { continue };
            // What fails without the defect too says nothing of it.
            let is_its_own = try_seed(profile, Defects::NONE, scenario.seed)
                .is_none_or(|without| without.signature != failure.signature);
            if is_its_own {
                found = Some((scenario, failure));
                break;
            }
        }
        // A run has a thread of its own.
        let own = thread_cpu_time().zip(before).map_or(Duration::ZERO, |(after, before)| after.saturating_sub(before));
        self.cpu += running + own;
        let hit = found.map(|(scenario, failure)| {
            let signature = failure.signature.to_string();
            let shrunk = shrink::shrink(&scenario, failure, &shrink::unexcused, SHRINKING);
            Hit {
                seeds: self.tried,
                cpu_ms: self.cpu.as_millis() as u64,
                signature,
                faults: shrunk.faults_after,
                shrinking_ms: shrunk.time.as_millis() as u64,
                is_certified: shrunk.is_certified(),
            }
        });
        self.wall += clock.elapsed();
        (hit.is_some() || self.tried >= search.seeds).then(|| Record {
            defect: self.defect.name().to_owned(),
            campaign: self.number,
            hit,
            profile: profile.name().to_owned(),
            first_seed: search.first_seed,
            seeds: search.seeds,
            wall_ms: self.wall.as_millis() as u64,
            generator: fingerprint(profile),
        })
    }
}

fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// What the campaigns for one defect came to, by number.
fn hits(defect: Defect, records: &[Record]) -> BTreeMap<u64, Option<&Hit>> {
    let own = records.iter().filter(|record| record.defect == defect.name());
    own.map(|record| (record.campaign, record.hit.as_ref())).collect()
}

/// Whether every campaign found its defect.
pub fn all_found(defects: &[Defect], records: &[Record]) -> bool {
    defects.iter().all(|defect| {
        let hits = hits(*defect, records);
        hits.len() as u64 == CAMPAIGNS && hits.values().all(Option::is_some)
    })
}

/// The report. `cores`: of the machine.
pub fn markdown(defects: &[Defect], records: &[Record], search: &Search, cores: usize) -> String {
    let mut text = String::from("# How long the fuzzer takes to find each known defect\n\n");
    let profile = search.profile.map_or_else(String::new, |profile| format!(" --profile {}", profile.name()));
    let ours = || records.iter().filter(|record| defects.iter().any(|defect| defect.name() == record.defect));
    let wall_ms: u64 = ours().map(|record| record.wall_ms).sum();
    let _ = writeln!(
        text,
        "`faultline fuzz --defects-table reports/defects.md{profile} --seed {} --jobs {}`, on {cores} cores; all campaigns, one after the \
         other, took {:.0} minutes. Medians of {CAMPAIGNS} campaigns of at most {} seeds each, those that found nothing counted as longer \
         than all others. Each defect is looked for in the profile whose subject it spoils. CPU time is that of the search, without \
         shrinking; shrinking is wall time. Faults are what is left of the schedule; a certificate is complete if the run passes \
         without any one of them. What fails without the defect too does not count. The rule is that of the first campaign that found it.\n",
        search.first_seed,
        search.jobs,
        seconds(wall_ms) / 60.0,
        search.seeds
    );
    text.push_str("| Defect | Profile | Found | Seeds | CPU s | Broken rule | Faults | Shrinking s | Certificates |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|\n");
    for defect in defects {
        text.push_str(&line(*defect, records, search));
    }
    text.push_str(&summary(&ours().collect::<Vec<_>>(), defects.len()));
    text
}

/// What is asked of shrinking, and whether it holds.
fn summary(records: &[&Record], defects: usize) -> String {
    let hits: Vec<&Hit> = records.iter().filter_map(|record| record.hit.as_ref()).collect();
    let medians = (median(hits.iter().map(|hit| hit.faults)), median(hits.iter().map(|hit| hit.shrinking_ms)));
    let (Some(faults), Some(shrinking_ms)) = medians else { return String::new() };
    let holds = |does: bool| if does { "holds" } else { "does not hold" };
    let certified = hits.iter().filter(|hit| hit.is_certified).count();
    let slowest = hits.iter().map(|hit| hit.shrinking_ms).max().unwrap_or(0);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "\n{} of {} campaigns are over, {} found their defect. Asked for:\n",
        records.len(),
        defects as u64 * CAMPAIGNS,
        hits.len()
    );
    let _ = writeln!(text, "- five faults or fewer after shrinking, in the median: {}, {faults}.", holds(faults <= 5));
    let _ = writeln!(
        text,
        "- shrunk in less than 60 s, in the median: {}, {:.1} s (the slowest: {:.1} s).",
        holds(shrinking_ms < 60_000),
        seconds(shrinking_ms),
        seconds(slowest)
    );
    let _ =
        writeln!(text, "- certificates complete: {}, {certified} of {}.", holds(certified == hits.len()), hits.len());
    text
}

fn line(defect: Defect, records: &[Record], search: &Search) -> String {
    let (name, profile, seeds_max) = (defect.name(), search.profile_of(defect).name(), search.seeds);
    let hits = hits(defect, records);
    let found: Vec<&Hit> = hits.values().filter_map(|hit| *hit).collect();
    let all = hits.len();
    let Some(first) = found.first() else {
        let seeds = if all == 0 { "no campaign is over".to_owned() } else { format!("not within {seeds_max}") };
        return format!("| `{name}` | {profile} | 0 of {all} | {seeds} | | | | | |\n");
    };
    let cost = |of: fn(&Hit) -> u64| median(hits.values().map(|hit| hit.map_or(u64::MAX, of))).unwrap_or(u64::MAX);
    let (seeds, cpu_ms) = (cost(|hit| hit.seeds), cost(|hit| hit.cpu_ms));
    let (seeds, cpu) = match seeds {
        u64::MAX => (format!("not within {seeds_max}"), String::new()),
        seeds => (seeds.to_string(), format!("{:.1}", seconds(cpu_ms))),
    };
    let faults = median(found.iter().map(|hit| hit.faults)).unwrap_or(0);
    let shrinking = seconds(median(found.iter().map(|hit| hit.shrinking_ms)).unwrap_or(0));
    let certified = found.iter().filter(|hit| hit.is_certified).count();
    format!(
        "| `{name}` | {profile} | {} of {all} | {seeds} | {cpu} | {} | {faults} | {shrinking:.1} | {certified} of {} |\n",
        found.len(),
        first.signature,
        found.len()
    )
}
