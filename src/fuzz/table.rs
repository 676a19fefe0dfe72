//! How long the fuzzer, which knows nothing of their schedules, takes to find each known defect: `reports/defects.md`.
//!
//! The campaigns of one number for the defects of one profile try the same seeds, and so are one [`Sweep`]: each seed is
//! run without any defect first, which tells which defects its decisions came to ([`RunOutcome::asked`]). Switched on, any
//! other defect would give the same run, byte for byte: it costs what that did, and found nothing. Only the rest is run.
//!
//! Of seeds that come to a defect which is hard to find, variations are tried too ([`hunt`]): what is rare is near to what
//! came close to it.
//!
//! Sweeps take turns, some seeds at a time, one per core: what is easy to find is in the table early. How far they have come
//! is kept in a file of its own next to the report ([`Kept`]), so that a search that was ended goes on where it stopped.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::examine::Failure;
use super::hunt::{self, Trial};
use super::shrink::{self, Budget};
use super::{Profile, generate};
use crate::defect::{Defect, Defects};
use crate::scenario::{Scenario, render};

/// Campaigns per defect: medians are of these.
pub const CAMPAIGNS: u64 = 5;
/// Seeds of a campaign, at most.
pub const SEEDS_MAX: u64 = 20_000;
/// Campaigns are this many seeds apart.
const SEEDS_APART: u64 = 1_000_000;
/// What one failure's shrinking may cost.
pub const SHRINKING: Budget = Budget { runs: 5_000, time: Duration::from_secs(60) };

/// Where to look, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// `None`: each defect where it belongs.
    pub profile: Option<Profile>,
    pub first_seed: u64,
    pub seeds: u64,
    pub jobs: usize,
    /// What one failure's may cost.
    pub shrinking: Budget,
}

impl Search {
    fn profile_of(&self, defect: Defect) -> Profile {
        self.profile.unwrap_or_else(|| home(defect))
    }
}

/// Tells one generator from another: a change of what it draws makes what was measured before worthless.
fn fingerprint(profile: Profile) -> &'static str {
    const SEEDS: u64 = 16;
    static DRAWN: LazyLock<BTreeMap<&str, String>> = LazyLock::new(|| {
        let of = |profile: Profile| {
            let seeds = (1..=SEEDS).flat_map(|seed| [seed, generate::variation(seed, 1)]);
            let drawn: String = seeds.map(|seed| render(&generate::scenario(profile, seed), &[])).collect();
            (profile.name(), format!("{:016x}", xxh3_64(drawn.as_bytes())))
        };
        Profile::ALL.map(of).into()
    });
    &DRAWN[profile.name()]
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
    /// Of the seeds tried, those in which a decision came to it.
    asked: u64,
    pub profile: String,
    pub first_seed: u64,
    pub seeds: u64,
    /// What the generator drew: [`fingerprint`].
    pub generator: String,
}

/// What a campaign found first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hit {
    /// Tried, until it showed, variations included.
    seeds: u64,
    /// Which of them showed it, a variation perhaps.
    #[serde(default)]
    seed: u64,
    cpu_ms: u64,
    signature: String,
    faults: usize,
    shrinking_ms: u64,
    is_certified: bool,
}

impl Record {
    /// Whether it answers what this search asks.
    fn is_of(&self, search: &Search) -> bool {
        Defect::named(&self.defect).is_some_and(|defect| search.profile_of(defect).name() == self.profile)
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

/// The campaigns of one number in one profile, as far as they have come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sweep {
    pub profile: String,
    pub campaign: u64,
    pub first_seed: u64,
    pub generator: String,
    /// Seeds, each of them run once without any defect.
    pub tried: u64,
    /// Those that fail so, and how: no defect of ours is to blame.
    pub failing: Vec<(u64, String)>,
    /// By defect that has not shown yet.
    open: BTreeMap<String, Tried>,
    /// Of search and shrinking.
    pub wall_ms: u64,
}

/// What trying seeds with a defect has come to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Tried {
    cpu_us: u64,
    /// Those in which a decision came to it.
    asked: u64,
    /// Those of them that belong to the block at hand.
    #[serde(default)]
    came: Vec<u64>,
    /// Variations of these.
    variations: u64,
}

/// What a search has come to: what is in the file next to the report, a line each.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    records: Vec<Record>,
    sweeps: Vec<Sweep>,
    /// Of searches from other seeds on, or of another length.
    others: Vec<Line>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Campaign(Record),
    Sweep(Sweep),
}

impl Line {
    /// Whether what it tells is of scenarios that are still drawn like this.
    fn is_current(&self) -> bool {
        let (Line::Campaign(Record { profile, generator, .. }) | Line::Sweep(Sweep { profile, generator, .. })) = self;
        Profile::named(profile).is_some_and(|profile| *generator == fingerprint(profile))
    }
}

impl Kept {
    /// What this search, or another, has come to with the generator of now. Errors: with the number of the line.
    pub fn parse(text: &str, search: &Search) -> Result<Kept, (usize, serde_json::Error)> {
        let mut kept = Kept::default();
        for (number, line) in text.lines().enumerate() {
            match serde_json::from_str(line).map_err(|error| (number + 1, error))? {
                line if !Line::is_current(&line) => {}
                Line::Campaign(record) if record.is_of(search) => kept.records.push(record),
                Line::Sweep(sweep) if sweep.first_seed == search.first_seed => kept.sweeps.push(sweep),
                line => kept.others.push(line),
            }
        }
        Ok(kept)
    }

    pub fn to_text(&self) -> String {
        let records = self.records.iter().cloned().map(Line::Campaign);
        let lines = records.chain(self.sweeps.iter().cloned().map(Line::Sweep)).chain(self.others.iter().cloned());
        lines.map(|line| serde_json::to_string(&line).expect("plain data") + "\n").collect()
    }

    /// Seeds.
    pub fn tried(&self) -> u64 {
        self.sweeps.iter().map(|sweep| sweep.tried).sum()
    }

    /// Campaigns.
    pub fn ended(&self) -> usize {
        self.records.len()
    }

    fn is_known(&self, defect: Defect, campaign: u64) -> bool {
        self.records.iter().any(|record| record.defect == defect.name() && record.campaign == campaign)
    }

    fn note(&mut self, sweep: &Sweep, records: &[Record]) {
        self.records.extend_from_slice(records);
        self.records.sort_by(|a, b| (&a.defect, a.campaign).cmp(&(&b.defect, b.campaign)));
        self.sweeps.retain(|known| (&known.profile, known.campaign) != (&sweep.profile, sweep.campaign));
        self.sweeps.push(sweep.clone());
        self.sweeps.sort_by(|a, b| (&a.profile, a.campaign).cmp(&(&b.profile, b.campaign)));
    }
}

/// Runs the campaigns for `defects` that `kept` does not hold yet; `done` gets everything after each turn, with the
/// campaigns that ended in it. `stop` ends the search early.
pub fn search(
    defects: &[Defect],
    search: &Search,
    kept: Kept,
    stop: &AtomicBool,
    done: impl Fn(&Kept, &[Record]) + Sync,
) -> Kept {
    let mut sweeps = VecDeque::new();
    for campaign in 0..CAMPAIGNS {
        for profile in Profile::ALL {
            let is_ours = |defect: &Defect| search.profile_of(*defect) == profile && !kept.is_known(*defect, campaign);
            let open: Vec<Defect> = defects.iter().copied().filter(is_ours).collect();
            if !open.is_empty() {
                sweeps.push_back(Sweep::new(search, profile, campaign, &open, &kept.sweeps));
            }
        }
    }
    let (sweeps, kept) = (Mutex::new(sweeps), Mutex::new(kept));
    let next = || lock(&sweeps).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..search.jobs.max(1) {
            scope.spawn(|| {
                while let Some(mut sweep) = next().filter(|_| !stop.load(Ordering::Relaxed)) {
                    let records = sweep.go_on(search, stop);
                    {
                        let mut kept = lock(&kept);
                        kept.note(&sweep, &records);
                        done(&kept, &records);
                    }
                    match sweep.open.is_empty() {
                        true => {}
                        // What is hard is gone through to its end.
                        false if sweep.tried < hunt::EASY => lock(&sweeps).push_back(sweep),
                        false => lock(&sweeps).push_front(sweep),
                    }
                }
            });
        }
    });
    kept.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sweep {
    /// Where `known` stopped, if all that is open is among what was open there.
    fn new(search: &Search, profile: Profile, campaign: u64, open: &[Defect], known: &[Sweep]) -> Sweep {
        let has_all = |sweep: &&Sweep| open.iter().all(|defect| sweep.open.contains_key(defect.name()));
        let is_same = |sweep: &&Sweep| sweep.profile == profile.name() && sweep.campaign == campaign;
        if let Some(known) = known.iter().filter(is_same).find(has_all) {
            let mut sweep = known.clone();
            sweep.open.retain(|name, _| open.iter().any(|defect| defect.name() == name));
            return sweep;
        }
        Sweep {
            profile: profile.name().to_owned(),
            campaign,
            first_seed: search.first_seed,
            generator: fingerprint(profile).to_owned(),
            tried: 0,
            failing: Vec::new(),
            open: open.iter().map(|defect| (defect.name().to_owned(), Tried::default())).collect(),
            wall_ms: 0,
        }
    }

    /// One turn, a block of seeds and the variations that follow from it: the campaigns that are over with it.
    #[allow(clippy::disallowed_types, reason = "what a search takes is real time")]
    fn go_on(&mut self, search: &Search, stop: &AtomicBool) -> Vec<Record> {
        let profile = Profile::named(&self.profile).expect("it was made for a profile");
        let first_seed = search.first_seed + self.campaign * SEEDS_APART;
        let clock = std::time::Instant::now();
        let mut records = Vec::new();
        // A search that was ended may have stopped with all seeds of a block tried, and none of its variations.
        let end = (self.tried + u64::from(!self.has_variations())).next_multiple_of(hunt::BLOCK);
        while self.tried < end && !self.open.is_empty() && !stop.load(Ordering::Relaxed) {
            records.extend(self.try_seed(search, profile, first_seed + self.tried));
        }
        if self.tried == end {
            records.extend(self.try_variations(search, profile, stop));
        }
        self.wall_ms += clock.elapsed().as_millis() as u64;
        records
    }

    fn has_variations(&self) -> bool {
        self.tried.is_multiple_of(hunt::BLOCK) && self.open.values().any(|tried| !tried.came.is_empty())
    }

    fn record(&self, search: &Search, defect: String, asked: u64, hit: Option<Hit>) -> Record {
        Record {
            defect,
            campaign: self.campaign,
            hit,
            asked,
            profile: self.profile.clone(),
            first_seed: search.first_seed,
            seeds: search.seeds,
            generator: self.generator.clone(),
        }
    }

    /// One seed without any defect, and with each that it makes a difference for.
    fn try_seed(&mut self, search: &Search, profile: Profile, seed: u64) -> Vec<Record> {
        let without = Trial::of(profile, Defects::NONE, seed);
        self.tried += 1;
        self.note_failing(seed, &without);
        let mut records = Vec::new();
        for (name, mut tried) in std::mem::take(&mut self.open) {
            let defect = Defect::named(&name).expect("it was named by one");
            let mut found = None;
            if without.asked.contains(defect) {
                tried.asked += 1;
                tried.came.push(seed);
                let with = Trial::of(profile, Defects::NONE.with(defect), seed);
                tried.cpu_us += with.cpu_us;
                // What fails without the defect too says nothing of it.
                let failure = with.failure.filter(|failure| !without.fails_like(failure));
                found = failure.map(|failure| (with.scenario, failure));
            } else {
                tried.cpu_us += without.cpu_us;
            }
            records.extend(self.settle(search, name, tried, found));
        }
        records
    }

    /// The variations of a block, for each defect that is open after it.
    fn try_variations(&mut self, search: &Search, profile: Profile, stop: &AtomicBool) -> Vec<Record> {
        let mut records = Vec::new();
        for name in self.open.keys().cloned().collect::<Vec<_>>() {
            let mut tried = self.open[&name].clone();
            let defect = Defect::named(&name).expect("it was named by one");
            let mut found = None;
            for seed in hunt::variations(&std::mem::take(&mut tried.came), self.tried) {
                if stop.load(Ordering::Relaxed) {
                    return records;
                }
                if self.tried + tried.variations >= search.seeds {
                    break;
                }
                tried.variations += 1;
                let with = Trial::of(profile, Defects::NONE.with(defect), seed);
                tried.cpu_us += with.cpu_us;
                let Some(failure) = with.failure else { continue };
                let without = Trial::of(profile, Defects::NONE, seed);
                tried.cpu_us += without.cpu_us;
                self.note_failing(seed, &without);
                if !without.fails_like(&failure) {
                    found = Some((with.scenario, failure));
                    break;
                }
            }
            self.open.remove(&name);
            records.extend(self.settle(search, name, tried, found));
        }
        records
    }

    /// What an attempt at a defect came to: its campaign is over, or goes on.
    fn settle(
        &mut self,
        search: &Search,
        name: String,
        tried: Tried,
        found: Option<(Scenario, Failure)>,
    ) -> Option<Record> {
        let seeds = self.tried + tried.variations;
        let Some((scenario, failure)) = found else {
            if seeds >= search.seeds {
                return Some(self.record(search, name, tried.asked, None));
            }
            self.open.insert(name, tried);
            return None;
        };
        let (seed, signature) = (scenario.seed, failure.signature.to_string());
        let shrunk = shrink::shrink(&scenario, failure, &shrink::unexcused, search.shrinking);
        let hit = Hit {
            seeds,
            seed,
            cpu_ms: tried.cpu_us / 1000,
            signature,
            faults: shrunk.faults_after,
            shrinking_ms: shrunk.time.as_millis() as u64,
            is_certified: shrunk.is_certified(),
        };
        Some(self.record(search, name, tried.asked, Some(hit)))
    }

    fn note_failing(&mut self, seed: u64, without: &Trial) {
        self.failing.extend(without.failure.iter().map(|failure| (seed, failure.signature.to_string())));
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
pub fn all_found(defects: &[Defect], kept: &Kept) -> bool {
    defects.iter().all(|defect| {
        let hits = hits(*defect, &kept.records);
        hits.len() as u64 == CAMPAIGNS && hits.values().all(Option::is_some)
    })
}

/// The report. `cores`: of the machine.
pub fn markdown(defects: &[Defect], kept: &Kept, search: &Search, cores: usize) -> String {
    let Kept { records, sweeps, others: _ } = kept;
    let mut text = String::from("# How long the fuzzer takes to find each known defect\n\n");
    let profile = search.profile.map_or_else(String::new, |profile| format!(" --profile {}", profile.name()));
    let ours = || records.iter().filter(|record| defects.iter().any(|defect| defect.name() == record.defect));
    let wall_ms: u64 = sweeps.iter().map(|sweep| sweep.wall_ms).sum();
    let _ = writeln!(
        text,
        "`faultline fuzz --defects-table reports/defects.md{profile} --seed {} --jobs {}`, on {cores} cores; one core alone would \
         have taken {:.0} minutes. Medians of {CAMPAIGNS} campaigns of at most {} seeds each, those that found nothing counted as longer \
         than all others. Each defect is looked for in the profile whose subject it spoils. CPU time is that of the search, without \
         shrinking; shrinking is wall time. A seed whose decisions never come to a defect was run once for all of them: it \
         counts with what it took, as the same run would have been made again. Of what has not shown after {} seeds, \
         variations of the seeds that come to it are tried too, as many as seeds; they count as seeds. \"Came to\" are the seeds among those tried whose \
         decisions did. Faults are what is left of the schedule; a certificate is complete if the run passes \
         without any one of them. What fails without the defect too does not count. The rule is that of the first campaign that found it.\n",
        search.first_seed,
        search.jobs,
        seconds(wall_ms) / 60.0,
        search.seeds,
        hunt::EASY
    );
    text.push_str(
        "| Defect | Profile | Found | Seeds | Came to | CPU s | Broken rule | Faults | Shrinking s | Certificates |\n",
    );
    text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    for defect in defects {
        text.push_str(&line(*defect, records, search));
    }
    text.push_str(&summary(&ours().collect::<Vec<_>>(), defects.len()));
    text.push_str(&without(sweeps));
    text
}

/// What the runs without any defect came to.
fn without(sweeps: &[Sweep]) -> String {
    let mut text =
        String::from("\nWithout any defect, the same seeds:\n\n| Profile | Runs | Failing |\n|---|---|---|\n");
    for profile in Profile::ALL {
        let of_profile = || sweeps.iter().filter(move |sweep| sweep.profile == profile.name());
        let runs: u64 = of_profile().map(|sweep| sweep.tried).sum();
        let failing = of_profile().flat_map(|sweep| &sweep.failing);
        let failing: Vec<String> = failing.map(|(seed, signature)| format!("{signature} (seed {seed})")).collect();
        let failing = if failing.is_empty() { "0".to_owned() } else { failing.join(", ") };
        let _ = writeln!(text, "| {} | {runs} | {failing} |", profile.name());
    }
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
    let own = records.iter().filter(|record| record.defect == defect.name());
    let asked = median(own.map(|record| record.asked)).map_or_else(String::new, |asked| asked.to_string());
    let Some(first) = found.first() else {
        let seeds = if all == 0 { "no campaign is over".to_owned() } else { format!("not within {seeds_max}") };
        return format!("| `{name}` | {profile} | 0 of {all} | {seeds} | {asked} | | | | | |\n");
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
        "| `{name}` | {profile} | {} of {all} | {seeds} | {asked} | {cpu} | {} | {faults} | {shrinking:.1} | {certified} of {} |\n",
        found.len(),
        first.signature,
        found.len()
    )
}
