//! Known defects that can be switched on (`[cluster] defects = ["truncate-to-hw"]`): what Kafka got wrong before a fix,
//! and single guards taken away. None is on unless a scenario says so.
//!
//! Each is one visible branch, `if defects.has(Defect::X)`, at the decision that it spoils: what stands there without
//! the branch is the rule. The list with its sentences and sources is [`catalogue`]. This module knows nothing of
//! what it breaks; configurations carry the set to whoever decides.

mod catalogue;

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

pub use catalogue::Defect;

/// How a scenario writes the empty set.
pub const NONE: &str = "none";
/// Between the names of several defects in one value of a matrix.
pub const SEPARATOR: char = '+';

impl Defect {
    /// The defect of this name.
    pub fn named(name: &str) -> Option<Defect> {
        Defect::ALL.iter().copied().find(|defect| defect.name() == name)
    }

    fn bit(self) -> u64 {
        1 << (self as u32)
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No defect has this name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown defect `{0}`")]
pub struct UnknownDefect(pub String);

impl FromStr for Defect {
    type Err = UnknownDefect;

    fn from_str(name: &str) -> Result<Defect, UnknownDefect> {
        Defect::named(name).ok_or_else(|| UnknownDefect(name.to_owned()))
    }
}

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

/// Which defects the decisions made on this thread have come to, whether they were on or not. Of any other it makes no
/// difference whether it is on.
pub fn asked() -> Defects {
    Defects(ASKED.get())
}

/// Which defects are on: a bit set.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Defects(u64);

impl Defects {
    pub const NONE: Defects = Defects(0);

    /// Asked where the answer makes a difference, and only there: behind the conditions that it depends on ([`asked`]).
    #[inline]
    pub fn has(self, defect: Defect) -> bool {
        ASKED.set(ASKED.get() | defect.bit());
        self.contains(defect)
    }

    /// Whether it is in the set, for whoever does not decide by it.
    pub fn contains(self, defect: Defect) -> bool {
        self.0 & defect.bit() != 0
    }

    #[must_use]
    pub fn with(self, defect: Defect) -> Defects {
        Defects(self.0 | defect.bit())
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In the order of [`Defect::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Defect> {
        Defect::ALL.iter().copied().filter(move |defect| self.contains(*defect))
    }
}

impl FromIterator<Defect> for Defects {
    fn from_iter<I: IntoIterator<Item = Defect>>(defects: I) -> Defects {
        defects.into_iter().fold(Defects::NONE, Defects::with)
    }
}

/// `none`, or the names joined by `+`: what a matrix has as one value.
impl fmt::Display for Defects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str(NONE);
        }
        for (i, defect) in self.iter().enumerate() {
            if i > 0 {
                fmt::Write::write_char(f, SEPARATOR)?;
            }
            f.write_str(defect.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Defects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_one_defect_and_every_defect_fits_into_the_set() {
        for (i, defect) in Defect::ALL.iter().enumerate() {
            assert_eq!(Defect::named(defect.name()), Some(*defect), "two defects are called {defect}");
            assert_eq!(*defect as usize, i);
            let is_kebab = defect.name().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            assert!(is_kebab && defect.name() != NONE, "{defect}");
        }
        assert!(Defect::ALL.len() <= 64, "a set has 64 bits");
        assert_eq!("kip-1010".parse::<Defect>(), Err(UnknownDefect("kip-1010".to_owned())));
    }

    #[test]
    fn a_set_holds_what_it_was_made_of_and_says_so() {
        let two: Defects = [Defect::HwIsrCommitted, Defect::TruncateToHw].into_iter().collect();
        assert!(two.has(Defect::HwIsrCommitted) && !two.has(Defect::ReadHwTwice));
        assert_eq!(two.to_string(), "truncate-to-hw+hw-isr-committed");
        assert_eq!(Defects::NONE.to_string(), "none");
    }

    #[test]
    fn the_scenario_of_a_defect_shows_it_with_and_without() {
        for defect in Defect::ALL {
            let Some(stem) = defect.scenario() else { continue };
            let text = std::fs::read_to_string(format!("scenarios/{stem}.toml")).expect(stem);
            let axis = text.lines().find(|line| line.starts_with("defects = ")).unwrap_or_default();
            assert!(axis.contains("\"none\"") && axis.contains(&format!("\"{defect}\"")), "{stem} lacks {defect}");
        }
    }

    #[test]
    fn every_defect_is_told_in_whole_sentences_with_a_source() {
        for defect in Defect::ALL {
            assert!(defect.sentence().ends_with('.') && defect.sentence().len() > 30, "{defect}");
            assert!(!defect.source().is_empty(), "{defect}");
        }
    }
}
