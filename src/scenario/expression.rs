//! The small languages inside a scenario's strings: durations, targets, conditions, comparisons, selectors.
//! Pure functions from text to value; a [`Slip`] says what is wrong and where in the text.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::model::{Comparison, Condition, Counter, Target};
use super::vocabulary::{CONDITIONS, TARGETS, UNITS};
use crate::config::nearest;
use crate::defect::{self, Defect, Defects};

/// A mistake inside a string; `at` counts bytes of that string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slip {
    pub at: Range<usize>,
    pub message: String,
    pub help: Option<String>,
}

impl Slip {
    pub(super) fn new(at: Range<usize>, message: impl Into<String>) -> Slip {
        Slip { at, message: message.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Slip {
        self.help = Some(help.into());
        self
    }

    /// For a text that begins `by` bytes into another.
    pub(super) fn shifted(self, by: usize) -> Slip {
        Slip { at: self.at.start + by..self.at.end + by, ..self }
    }
}

/// `2s`, `500ms`, `0.2ms`, `250us`, `1m`, `1h`. Exact: no floating point.
pub(super) fn duration(text: &str) -> Result<Duration, Slip> {
    let all = 0..text.len();
    let example = "write a number and a unit: 250us, 0.5ms, 2s, 1m";
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit_ns: u64 = match unit.trim() {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" if !number.is_empty() => return Err(Slip::new(all, format!("`{text}` has no unit")).help(example)),
        _ if number.is_empty() => return Err(Slip::new(all, format!("`{text}` is not a duration")).help(example)),
        other => {
            let slip = Slip::new(unit_at..text.len(), format!("`{other}` is not a unit of time"));
            return Err(slip.help(format!("units: {}", UNITS.join(", "))));
        }
    };
    decimal(number, unit_ns)
        .map(Duration::from_nanos)
        .ok_or_else(|| Slip::new(all, format!("`{text}` is not a duration")).help(example))
}

/// A number of whole milliseconds forwards or, with a `-`, backwards: `-720h`, `5m`.
pub(super) fn shift_ms(text: &str) -> Result<i64, Slip> {
    let (sign, rest) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let skipped = text.len() - rest.len();
    let duration =
        duration(rest).map_err(|slip| Slip { at: slip.at.start + skipped..slip.at.end + skipped, ..slip })?;
    if duration.subsec_nanos() % 1_000_000 != 0 {
        return Err(Slip::new(0..text.len(), format!("`{text}` is no whole number of milliseconds")));
    }
    Ok(sign * i64::try_from(duration.as_millis()).expect("a duration in nanoseconds fits in milliseconds"))
}

/// `number` (digits with at most one point) of `unit` each, if that is a whole number.
pub(super) fn decimal(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 12 {
        return None;
    }
    let scale = 10_u64.pow(fraction.len() as u32);
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit);
    if part % u128::from(scale) != 0 {
        return None;
    }
    let part = u64::try_from(part / u128::from(scale)).ok()?;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(part)
}

/// `name` or `name(argument, …)`, as found in targets and conditions.
#[derive(Debug)]
pub(super) struct Term<'a> {
    pub name: &'a str,
    pub name_at: Range<usize>,
    /// `None` without parentheses.
    pub arguments: Option<Vec<&'a str>>,
    pub at: Range<usize>,
}

/// Reads one term at the start of `text` (after blanks); returns it with the offset behind it.
pub(super) fn term(text: &str) -> Result<(Term<'_>, usize), Slip> {
    let start = text.len() - text.trim_start().len();
    let rest = &text[start..];
    let name_len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').unwrap_or(rest.len());
    let name_at = start..start + name_len;
    if name_len == 0 {
        return Err(Slip::new(start..text.len().max(start), "a name is missing here"));
    }
    let name = &text[name_at.clone()];
    if !text[name_at.end..].starts_with('(') {
        return Ok((Term { name, at: name_at.clone(), name_at: name_at.clone(), arguments: None }, name_at.end));
    }
    let open = name_at.end;
    let Some(length) = text[open..].find(')') else {
        return Err(Slip::new(open..text.len(), "the parenthesis is not closed"));
    };
    let close = open + length;
    let arguments = text[open + 1..close].split(',').map(str::trim).collect();
    Ok((Term { name, name_at: name_at.clone(), arguments: Some(arguments), at: name_at.start..close + 1 }, close + 1))
}

impl<'a> Term<'a> {
    /// The one argument; `example` shows the right form.
    fn one(&self, example: &str) -> Result<&'a str, Slip> {
        match self.arguments.as_deref() {
            Some([only]) if !only.is_empty() => Ok(only),
            Some(_) | None => Err(Slip::new(self.at.clone(), format!("`{}` needs one argument", self.name))
                .help(format!("for example `{example}`"))),
        }
    }

    fn one_number<T: std::str::FromStr>(&self, example: &str) -> Result<T, Slip> {
        let text = self.one(example)?;
        text.parse().map_err(|_| {
            Slip::new(self.at.clone(), format!("`{text}` is not a number")).help(format!("for example `{example}`"))
        })
    }

    fn none(&self) -> Result<(), Slip> {
        match self.arguments {
            None => Ok(()),
            Some(_) => Err(Slip::new(self.at.clone(), format!("`{}` takes no argument", self.name))),
        }
    }

    fn unknown(&self, what: &str, known: &[&'static str]) -> Slip {
        let slip = Slip::new(self.name_at.clone(), format!("unknown {what} `{}`", self.name));
        match nearest(self.name, known.iter().copied()) {
            Some(near) => slip.help(format!("did you mean `{near}`?")),
            None => slip.help(format!("known here: {}", known.join(", "))),
        }
    }
}

/// `broker(1)`, `leader(orders-0)`, `follower(orders-0, 1)`, `brokers`, …
pub(super) fn target(text: &str) -> Result<Target, Slip> {
    let (term, end) = term(text)?;
    let target = match term.name {
        "broker" => Target::Broker(term.one_number("broker(1)")?),
        "brokers" => term.none().map(|()| Target::Brokers)?,
        "leader" => Target::Leader(term.one("leader(orders-0)")?.to_owned()),
        "follower" => follower(&term)?,
        "isr" => Target::Isr(term.one("isr(orders-0)")?.to_owned()),
        "controller" => term.none().map(|()| Target::Controller)?,
        "rack" => Target::Rack(term.one("rack(a)")?.to_owned()),
        "machines" => term.none().map(|()| Target::Machines)?,
        "client" => Target::Client(term.one("client(producer-1)")?.to_owned()),
        "coordinator" => Target::Coordinator(term.one("coordinator(billing)")?.to_owned()),
        "fault" => Target::SameAs(term.one_number("fault(1)")?),
        _ => return Err(term.unknown("target", TARGETS)),
    };
    nothing_after(text, end)?;
    Ok(target)
}

fn follower(term: &Term<'_>) -> Result<Target, Slip> {
    match term.arguments.as_deref() {
        Some([partition, nth]) => match nth.parse() {
            Ok(nth) if nth >= 1 => Ok(Target::Follower((*partition).to_owned(), Some(nth))),
            Ok(_) | Err(_) => Err(Slip::new(term.at.clone(), format!("`{nth}` does not choose a follower"))
                .help("followers are numbered from 1, in the order of their broker ids: `follower(orders-0, 1)`")),
        },
        Some(_) | None => Ok(Target::Follower(term.one("follower(orders-0)")?.to_owned(), None)),
    }
}

fn nothing_after(text: &str, end: usize) -> Result<(), Slip> {
    let rest = text[end..].trim();
    if rest.is_empty() {
        return Ok(());
    }
    Err(Slip::new(end..text.len(), format!("`{rest}` is left over")))
}

/// `acked(orders) >= 200`, `isr(orders-0) == [1]`, `isr(orders-0).size < 3`, `leader(orders-0) != 1`, `fault(2).ended`.
pub(super) fn condition(text: &str) -> Result<Condition, Slip> {
    let (term, end) = term(text)?;
    match term.name {
        "sent" => count(Counter::Sent, &term, text, end),
        "acked" => count(Counter::Acked, &term, text, end),
        "committed" => count(Counter::Committed, &term, text, end),
        "isr" => isr(&term, text, end),
        "leader" => leader(&term, text, end),
        "fault" => fault(&term, text, end),
        _ => Err(term.unknown("condition", CONDITIONS)),
    }
}

fn count(what: Counter, term: &Term<'_>, text: &str, end: usize) -> Result<Condition, Slip> {
    let of = term.one("acked(orders) >= 200")?.to_owned();
    let (compare, value) = number_compared(text, end)?;
    Ok(Condition::Count { what, of, compare, value })
}

fn isr(term: &Term<'_>, text: &str, end: usize) -> Result<Condition, Slip> {
    const EXAMPLE: &str = "isr(orders-0) == [1, 2]";
    let partition = term.one(EXAMPLE)?.to_owned();
    if text[end..].starts_with(".size") {
        let (compare, value) = number_compared(text, end + ".size".len())?;
        return Ok(Condition::IsrSize { partition, compare, value });
    }
    let (compare, operand) = operator(text, end)?;
    let at = operand..text.len();
    if compare != Comparison::Eq {
        return Err(Slip::new(end..text.len(), "in-sync replicas can only be compared with ==")
            .help("to ask for their number, write `isr(orders-0).size < 3`"));
    }
    let list = text[operand..].trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let ids = list.map(|list| list.split(',').map(|id| id.trim().parse::<u32>()).collect::<Result<Vec<_>, _>>());
    match ids {
        Some(Ok(mut equals)) => {
            equals.sort_unstable();
            equals.dedup();
            Ok(Condition::Isr { partition, equals })
        }
        Some(Err(_)) | None => {
            Err(Slip::new(at, "a list of broker ids is needed here").help(format!("for example `{EXAMPLE}`")))
        }
    }
}

fn leader(term: &Term<'_>, text: &str, end: usize) -> Result<Condition, Slip> {
    const EXAMPLE: &str = "leader(orders-0) != 1";
    let partition = term.one(EXAMPLE)?.to_owned();
    let (compare, operand) = operator(text, end)?;
    let negated = match compare {
        Comparison::Eq => false,
        Comparison::Ne => true,
        Comparison::Lt | Comparison::Le | Comparison::Gt | Comparison::Ge => {
            return Err(Slip::new(end..text.len(), "a leader can only be compared with == and !="));
        }
    };
    let broker = match text[operand..].trim() {
        "none" => 0,
        id => id.parse().map_err(|_| {
            Slip::new(operand..text.len(), "a broker id or `none` is needed here")
                .help(format!("for example `{EXAMPLE}`"))
        })?,
    };
    Ok(Condition::Leader { partition, negated, broker })
}

fn fault(term: &Term<'_>, text: &str, end: usize) -> Result<Condition, Slip> {
    let index = term.one_number("fault(1).ended")?;
    match text[end..].trim_end() {
        ".started" => Ok(Condition::Fault { index, ended: false }),
        ".ended" => Ok(Condition::Fault { index, ended: true }),
        _ => Err(Slip::new(end..text.len(), "`.started` or `.ended` is needed after `fault(…)`")
            .help(format!("for example `fault({index}).ended`"))),
    }
}

/// An operator and a number at `from`, and nothing after them.
fn number_compared(text: &str, from: usize) -> Result<(Comparison, u64), Slip> {
    let (compare, operand) = operator(text, from)?;
    let value = text[operand..].trim().parse().map_err(|_| {
        Slip::new(operand..text.len(), "a whole number is needed here").help("for example `acked(orders) >= 200`")
    })?;
    Ok((compare, value))
}

/// The operator at `from` and the offset behind it.
fn operator(text: &str, from: usize) -> Result<(Comparison, usize), Slip> {
    let start = text.len() - text[from..].trim_start().len();
    for (sign, compare) in OPERATORS {
        if text[start..].starts_with(sign) {
            return Ok((*compare, start + sign.len()));
        }
    }
    let slip = Slip::new(start.min(text.len())..text.len(), "a comparison is missing here");
    Err(slip.help("one of ==, !=, <, <=, >, >="))
}

/// Two-character operators first, so that none is read as its own prefix.
const OPERATORS: &[(&str, Comparison)] = &[
    ("==", Comparison::Eq),
    ("!=", Comparison::Ne),
    ("<=", Comparison::Le),
    (">=", Comparison::Ge),
    ("<", Comparison::Lt),
    (">", Comparison::Gt),
];

/// An expected number: `> 0`, `== 3`.
pub(super) fn comparison(text: &str) -> Result<(Comparison, u64), Slip> {
    let (compare, operand) = operator(text, 0).map_err(|slip| slip.help("for example \"> 0\", or the number alone"))?;
    let value = text[operand..]
        .trim()
        .parse()
        .map_err(|_| Slip::new(operand..text.len(), "a whole number is needed here").help("for example \"> 0\""))?;
    Ok((compare, value))
}

/// `none`, `truncate-to-hw`, `isr-no-leso+truncate-to-hw`.
pub(super) fn defects(text: &str) -> Result<Defects, Slip> {
    if text.trim() == defect::NONE {
        return Ok(Defects::NONE);
    }
    let mut defects = Defects::NONE;
    let mut start = 0;
    for part in text.split(defect::SEPARATOR) {
        let at = start..start + part.len();
        start = at.end + 1;
        let name = part.trim();
        let Some(found) = Defect::named(name) else {
            let slip = Slip::new(at, format!("unknown defect `{name}`"));
            return Err(match nearest(name, Defect::ALL.iter().map(|defect| defect.name())) {
                Some(near) => slip.help(format!("did you mean `{near}`?")),
                None => slip.help("`faultline defects` lists them; `none` is none of them"),
            });
        };
        if defects.contains(found) {
            return Err(Slip::new(at, format!("defect `{name}` is named twice")));
        }
        defects = defects.with(found);
    }
    Ok(defects)
}

/// Which variants an expectation is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selector {
    /// `*`
    Every,
    /// `acks=all,min.insync.replicas=1`: variants with all of these values.
    Where(Vec<(String, String)>),
}

impl Selector {
    /// Whether the variant at `point` is meant.
    pub(super) fn matches(&self, point: &[(String, String)]) -> bool {
        match self {
            Selector::Every => true,
            Selector::Where(pins) => pins.iter().all(|pin| point.contains(pin)),
        }
    }
}

pub(super) fn selector(text: &str) -> Result<Selector, Slip> {
    if text.trim() == "*" {
        return Ok(Selector::Every);
    }
    let mut pins = Vec::new();
    let mut start = 0;
    for part in text.split(',') {
        let at = start..start + part.len();
        start = at.end + 1;
        let (axis, value) = match part.split_once('=') {
            Some((axis, value)) if !axis.trim().is_empty() && !value.trim().is_empty() => (axis.trim(), value.trim()),
            Some(_) | None => {
                return Err(Slip::new(at, format!("`{}` does not select variants", part.trim()))
                    .help("write axis=value, for example \"acks=all,min.insync.replicas=1\", or \"*\" for all"));
            }
        };
        if pins.iter().any(|(known, _)| known == axis) {
            return Err(Slip::new(at, format!("`{axis}` is selected twice")));
        }
        pins.push((axis.to_owned(), value.to_owned()));
    }
    Ok(Selector::Where(pins))
}

impl Comparison {
    /// `actual` compared with `expected`.
    pub fn holds(self, actual: u64, expected: u64) -> bool {
        match self {
            Comparison::Eq => actual == expected,
            Comparison::Ne => actual != expected,
            Comparison::Lt => actual < expected,
            Comparison::Le => actual <= expected,
            Comparison::Gt => actual > expected,
            Comparison::Ge => actual >= expected,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Comparison::Eq => "==",
            Comparison::Ne => "!=",
            Comparison::Lt => "<",
            Comparison::Le => "<=",
            Comparison::Gt => ">",
            Comparison::Ge => ">=",
        })
    }
}

impl fmt::Display for Target {
    /// As a scenario file writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Broker(id) => write!(f, "broker({id})"),
            Target::Brokers => f.write_str("brokers"),
            Target::Leader(partition) => write!(f, "leader({partition})"),
            Target::Follower(partition, None) => write!(f, "follower({partition})"),
            Target::Follower(partition, Some(nth)) => write!(f, "follower({partition}, {nth})"),
            Target::Isr(partition) => write!(f, "isr({partition})"),
            Target::Controller => f.write_str("controller"),
            Target::Client(name) => write!(f, "client({name})"),
            Target::Coordinator(group) => write!(f, "coordinator({group})"),
            Target::Rack(name) => write!(f, "rack({name})"),
            Target::Machines => f.write_str("machines"),
            Target::SameAs(index) => write!(f, "fault({index})"),
        }
    }
}

impl fmt::Display for Condition {
    /// As a scenario file writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Count { what, of, compare, value } => {
                let what = match what {
                    Counter::Sent => "sent",
                    Counter::Acked => "acked",
                    Counter::Committed => "committed",
                };
                write!(f, "{what}({of}) {compare} {value}")
            }
            Condition::Isr { partition, equals } => {
                let ids: Vec<String> = equals.iter().map(u32::to_string).collect();
                write!(f, "isr({partition}) == [{}]", ids.join(", "))
            }
            Condition::IsrSize { partition, compare, value } => write!(f, "isr({partition}).size {compare} {value}"),
            Condition::Leader { partition, negated, broker } => {
                let sign = if *negated { "!=" } else { "==" };
                match broker {
                    0 => write!(f, "leader({partition}) {sign} none"),
                    id => write!(f, "leader({partition}) {sign} {id}"),
                }
            }
            Condition::Fault { index, ended: false } => write!(f, "fault({index}).started"),
            Condition::Fault { index, ended: true } => write!(f, "fault({index}).ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_exact() {
        for (text, nanos) in [
            ("2s", 2_000_000_000),
            ("500ms", 500_000_000),
            ("0.2ms", 200_000),
            ("250us", 250_000),
            ("1m", 60_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("0s", 0),
            ("10 s", 10_000_000_000),
            ("0.000000001s", 1),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn a_shift_goes_both_ways() {
        assert_eq!((shift_ms("-720h"), shift_ms("5m")), (Ok(-2_592_000_000), Ok(300_000)));
        assert_eq!(shift_ms("-5").unwrap_err().at, 1..2);
        assert!(shift_ms("250us").is_err() && shift_ms("--1s").is_err());
    }

    #[test]
    fn what_is_no_duration_says_why() {
        for (text, message) in [
            ("", "`` is not a duration"),
            ("2", "`2` has no unit"),
            ("2sec", "`sec` is not a unit of time"),
            ("2 seconds", "`seconds` is not a unit of time"),
            ("s", "`s` is not a duration"),
            ("-1s", "`-1s` is not a duration"),
            ("1.2.3s", "`1.2.3s` is not a duration"),
            (".5s", "`.5s` is not a duration"),
            ("1.s", "`1.s` is not a duration"),
            ("0.0001us", "`0.0001us` is not a duration"),
            ("99999999999h", "`99999999999h` is not a duration"),
        ] {
            assert_eq!(duration(text).unwrap_err().message, message, "{text}");
        }
    }

    #[test]
    fn a_target_prints_as_it_is_written() {
        for text in [
            "broker(1)",
            "brokers",
            "leader(orders-0)",
            "follower(orders-0)",
            "follower(orders-0, 2)",
            "isr(orders-0)",
            "controller",
            "client(producer-1)",
            "rack(a)",
            "machines",
            "fault(2)",
        ] {
            assert_eq!(target(text).map(|t| t.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(target(" follower(orders-0,2) "), Ok(Target::Follower("orders-0".into(), Some(2))));
    }

    #[test]
    fn what_is_no_target_says_why() {
        for (text, message) in [
            ("", "a name is missing here"),
            ("laeder(orders-0)", "unknown target `laeder`"),
            ("broker", "`broker` needs one argument"),
            ("broker()", "`broker` needs one argument"),
            ("broker(x)", "`x` is not a number"),
            ("brokers(1)", "`brokers` takes no argument"),
            ("leader(orders-0", "the parenthesis is not closed"),
            ("leader(orders-0) now", "`now` is left over"),
            ("follower(orders-0, 0)", "`0` does not choose a follower"),
            ("leader(a-0, b-0)", "`leader` needs one argument"),
        ] {
            assert_eq!(target(text).unwrap_err().message, message, "{text}");
        }
        assert_eq!(target("laeder(orders-0)").unwrap_err().help.as_deref(), Some("did you mean `leader`?"));
    }

    #[test]
    fn conditions_read_as_documented() {
        let orders = || "orders-0".to_owned();
        let read = |text| condition(text).unwrap_or_else(|slip| panic!("{text}: {}", slip.message));
        assert_eq!(
            read("acked(orders) >= 200"),
            Condition::Count { what: Counter::Acked, of: "orders".into(), compare: Comparison::Ge, value: 200 }
        );
        assert_eq!(
            read("committed(orders-0)>5"),
            Condition::Count { what: Counter::Committed, of: orders(), compare: Comparison::Gt, value: 5 }
        );
        assert_eq!(read("isr(orders-0) == [2,1, 1]"), Condition::Isr { partition: orders(), equals: vec![1, 2] });
        assert_eq!(
            read("isr(orders-0).size < 3"),
            Condition::IsrSize { partition: orders(), compare: Comparison::Lt, value: 3 }
        );
        assert_eq!(read("leader(orders-0) != 2"), Condition::Leader { partition: orders(), negated: true, broker: 2 });
        assert_eq!(
            read("leader(orders-0) == none"),
            Condition::Leader { partition: orders(), negated: false, broker: 0 }
        );
        assert_eq!(read("fault(2).ended"), Condition::Fault { index: 2, ended: true });
        assert_eq!(read("fault(1).started"), Condition::Fault { index: 1, ended: false });
    }

    #[test]
    fn what_is_no_condition_says_why() {
        for (text, message) in [
            ("akced(orders) >= 1", "unknown condition `akced`"),
            ("acked >= 1", "`acked` needs one argument"),
            ("acked(orders)", "a comparison is missing here"),
            ("acked(orders) = 1", "a comparison is missing here"),
            ("acked(orders) >= many", "a whole number is needed here"),
            ("acked(orders) >= 1 0", "a whole number is needed here"),
            ("isr(orders-0) != [1]", "in-sync replicas can only be compared with =="),
            ("isr(orders-0) == 1", "a list of broker ids is needed here"),
            ("isr(orders-0) == []", "a list of broker ids is needed here"),
            ("leader(orders-0) > 1", "a leader can only be compared with == and !="),
            ("leader(orders-0) == nobody", "a broker id or `none` is needed here"),
            ("fault(1)", "`.started` or `.ended` is needed after `fault(…)`"),
            ("fault(1).over", "`.started` or `.ended` is needed after `fault(…)`"),
        ] {
            assert_eq!(condition(text).unwrap_err().message, message, "{text}");
        }
    }

    #[test]
    fn comparisons_hold_as_written() {
        for (text, holds, fails) in
            [("> 0", 1, 0), (">=5", 5, 4), ("== 0", 0, 1), ("!= 0", 7, 0), ("< 3", 2, 3), ("<= 2", 2, 3)]
        {
            let (compare, value) = comparison(text).expect(text);
            assert!(compare.holds(holds, value), "{holds} {text}");
            assert!(!compare.holds(fails, value), "{fails} {text}");
        }
        assert_eq!(comparison("some").unwrap_err().message, "a comparison is missing here");
        assert_eq!(comparison("> -1").unwrap_err().message, "a whole number is needed here");
    }

    #[test]
    fn a_selector_matches_the_variants_with_all_of_its_values() {
        let point = |acks: &str, isr: &str| {
            vec![("acks".to_owned(), acks.to_owned()), ("min.insync.replicas".to_owned(), isr.to_owned())]
        };
        let one = selector("acks=all").unwrap();
        assert!(one.matches(&point("all", "1")) && one.matches(&point("all", "2")) && !one.matches(&point("1", "1")));
        let both = selector(" acks = all , min.insync.replicas = 1").unwrap();
        assert!(both.matches(&point("all", "1")) && !both.matches(&point("all", "2")));
        assert!(selector("*").unwrap().matches(&point("0", "1")));
        assert!(selector("*").unwrap().matches(&[]));
    }

    #[test]
    fn what_is_no_selector_says_why() {
        for (text, message, at) in [
            ("all", "`all` does not select variants", 0..3),
            ("acks=", "`acks=` does not select variants", 0..5),
            ("acks=1,", "`` does not select variants", 7..7),
            ("acks=1,acks=0", "`acks` is selected twice", 7..13),
        ] {
            let slip = selector(text).unwrap_err();
            assert_eq!((slip.message.as_str(), slip.at), (message, at), "{text}");
        }
    }
}
