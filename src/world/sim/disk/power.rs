//! What a power loss leaves of the changes that no sync had made durable.
//!
//! The operating system writes dirty pages and directory changes back when it likes and in any order, so any subset of
//! them may have reached the medium: a page beyond one that is lost, a rename before the data of the renamed file.

use rand::RngExt;

use crate::world::Rng;

/// The pending changes of one file or directory, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    /// Of the file or directory, relative to the machine's root (`""`).
    pub path: String,
    pub changes: Vec<Change>,
}

/// One pending change. Each survives whole or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The file's page of this number (from byte number * [`PAGE_BYTES`](super::PAGE_BYTES)) was written to.
    Page(u64),
    /// The file was cut to this length; it may have grown again since.
    Cut(u64),
    /// Directory entries: a file or directory was created, renamed (replacing what was there), removed.
    Create(String),
    Rename {
        from: String,
        to: String,
    },
    Remove(String),
}

/// Says of each pending change of a file or directory whether it survives; directories come before what is in them,
/// and what a directory lost is not asked for.
pub type Chooser<'a> = dyn FnMut(&Pending) -> Vec<bool> + 'a;

/// Which of the pending changes of a file or directory survive a power loss.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Survival {
    #[default]
    Nothing,
    /// As if synced in the last moment.
    Everything,
    /// The first few, as many as the run's stream says: pages in the order of the file, entries in the order in which
    /// they were changed. What an ordered journal leaves.
    Prefix,
    /// Each or not, as the run's stream says: torn and reordered writes.
    Subset,
    /// These, by their number among those that are pending. A cut of a file has none and does not survive.
    Chosen(Numbers),
}

/// Numbers from 0 to [`Numbers::MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Numbers(u64);

impl Numbers {
    pub const MAX: u32 = u64::BITS - 1;

    pub fn contains(self, number: u32) -> bool {
        number <= Numbers::MAX && self.0 & (1 << number) != 0
    }

    /// Ascending.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..=Numbers::MAX).filter(move |number| self.contains(*number))
    }
}

impl FromIterator<u32> for Numbers {
    /// Panics if one is above [`Numbers::MAX`].
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Numbers {
        numbers.into_iter().fold(Numbers::default(), |set, number| {
            assert!(number <= Numbers::MAX, "a number is at most {}", Numbers::MAX);
            Numbers(set.0 | 1 << number)
        })
    }
}

/// What survives a power loss, of the pages of files and of directory entries. Entries without pages are the classic
/// trap: a rename is durable before the data of what was renamed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Survivors {
    pub pages: Survival,
    pub entries: Survival,
}

impl Survivors {
    pub const NOTHING: Survivors = Survivors { pages: Survival::Nothing, entries: Survival::Nothing };

    /// One choice, drawn from `rng`.
    pub(in crate::world::sim) fn choose(self, pending: &Pending, rng: &mut Rng) -> Vec<bool> {
        let is_file = matches!(pending.changes.first(), Some(Change::Page(_) | Change::Cut(_)));
        let count = pending.changes.len();
        match if is_file { self.pages } else { self.entries } {
            Survival::Nothing => vec![false; count],
            Survival::Everything => vec![true; count],
            Survival::Prefix => {
                let kept = rng.random_range(0..=count);
                (0..count).map(|at| at < kept).collect()
            }
            Survival::Subset => (0..count).map(|_| rng.random()).collect(),
            Survival::Chosen(numbers) => {
                let mut next = 0..;
                let mut number = |change: &Change| match change {
                    Change::Cut(_) => None,
                    Change::Page(_) | Change::Create(_) | Change::Rename { .. } | Change::Remove(_) => next.next(),
                };
                pending.changes.iter().map(|change| number(change).is_some_and(|n| numbers.contains(n))).collect()
            }
        }
    }
}
