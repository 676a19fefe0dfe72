//! The fuzzer: makes whole scenarios, runs them, judges each with every checker, and makes what fails small.
//!
//! [`generate`] draws a scenario from a seed, [`examine`] says what of a run no configuration excuses ([`guard`] knows
//! the legitimate losses), [`campaign`] does it over many seeds, [`hunt`] is about known defects, [`shrink`] keeps of a failing scenario what the
//! failure needs, [`found`] writes it down as a scenario file that is an executable claim.
//!
//! A generated scenario is rendered and read back before it runs: it is a valid file by construction, and nothing is
//! drawn at random while it runs but what its seed says.

pub mod campaign;
pub mod examine;
pub mod found;
pub mod generate;
pub mod guard;
pub mod hunt;
pub mod shrink;
pub mod table;

use crate::scenario::{self, Scenario};

/// What a campaign looks at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Profile {
    /// Leadership, ISR, high watermark and truncation: network faults, pauses and crashes of three brokers or so.
    Replication,
    /// What disks keep: power losses, crashes, orderly stops and isolated brokers with small segments and rare flushes.
    Storage,
    /// Consumer groups: members that come and go, coordinators that fail, `__consumer_offsets` on one to three brokers.
    Groups,
    /// Replication and storage, with everything that a scenario can say.
    All,
}

impl Profile {
    pub const ALL: [Profile; 4] = [Profile::Replication, Profile::Storage, Profile::Groups, Profile::All];

    pub fn named(name: &str) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Replication => "replication",
            Profile::Storage => "storage",
            Profile::Groups => "groups",
            Profile::All => "all",
        }
    }
}

/// The scenario as it is once written to a file and read again: checked, its configurations typed. `None` if it is not
/// a valid scenario.
pub fn written(draft: &Scenario) -> Option<Scenario> {
    scenario::parse(&draft.name, &draft.file, &scenario::render(draft, &[])).ok()
}

/// The topic of a partition that is written `orders-0`.
fn topic_of(partition: &str) -> &str {
    partition.rsplit_once('-').map_or(partition, |(topic, _)| topic)
}
