//! Reading and writing histories as JSON Lines.

use std::fmt;
use std::io::{self, BufRead, Write};

use super::{HistoryConfig, HistoryEvent, MicroOp};

/// How many bad lines are told.
const BAD_LINES_MAX: usize = 10;

/// A history that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Some lines are no events.
    #[error("{0}")]
    Lines(BadLines),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The lines that are no events: the first few with the reason, and how many there are. Lines count from 1.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BadLines {
    pub first: Vec<(usize, String)>,
    pub count: usize,
}

impl BadLines {
    fn add(&mut self, line: usize, reason: String) {
        self.count += 1;
        if self.first.len() < BAD_LINES_MAX {
            self.first.push((line, reason));
        }
    }
}

impl fmt::Display for BadLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (line, reason)) in self.first.iter().enumerate() {
            write!(f, "{}line {line}: {reason}", if at > 0 { "\n" } else { "" })?;
        }
        match self.count - self.first.len() {
            0 => Ok(()),
            1 => f.write_str("\nand 1 more bad line"),
            more => write!(f, "\nand {more} more bad lines"),
        }
    }
}

/// Writes the configuration (left out when empty) and the events, one per line.
pub fn write(out: &mut impl Write, config: &HistoryConfig, events: &[HistoryEvent]) -> io::Result<()> {
    if !config.is_empty() {
        serde_json::to_writer(&mut *out, &serde_json::json!({ "config": config }))?;
        out.write_all(b"\n")?;
    }
    for event in events {
        serde_json::to_writer(&mut *out, event)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Reads a history. Empty lines are skipped, and so are the events of Jepsen's nemesis, which is no client.
pub fn read(mut input: impl BufRead) -> Result<(HistoryConfig, Vec<HistoryEvent>), HistoryError> {
    let mut config = None;
    let mut events = Vec::new();
    let mut bad = BadLines::default();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if input.read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text.trim(),
            Err(error) => {
                bad.add(line, format!("not UTF-8: {error}"));
                continue;
            }
        };
        if text.is_empty() {
            continue;
        }
        match parse_event(text) {
            Ok(mut event) => {
                if event.index == HistoryEvent::INDEX_MISSING {
                    event.index = events.len() as u64;
                }
                events.push(event);
            }
            Err(reason) => match other_line(text) {
                OtherLine::Nemesis => {}
                OtherLine::Config(found) if config.is_none() && events.is_empty() => {
                    if let Some(mistake) = found.mistake() {
                        bad.add(line, mistake);
                    }
                    config = Some(found);
                }
                OtherLine::Config(_) => bad.add(line, "the configuration is the first line, and only there".to_owned()),
                OtherLine::Neither => bad.add(line, reason),
            },
        }
    }
    if bad.count > 0 {
        return Err(HistoryError::Lines(bad));
    }
    Ok((config.unwrap_or_default(), events))
}

/// A line that is no event of a client.
enum OtherLine {
    Config(HistoryConfig),
    Nemesis,
    Neither,
}

fn other_line(text: &str) -> OtherLine {
    let Ok(serde_json::Value::Object(mut line)) = serde_json::from_str(text) else { return OtherLine::Neither };
    let process = line.get("process").map(|process| process.as_str().unwrap_or_default().to_owned());
    match (process, line.remove("config")) {
        (Some(process), _) if process.trim_start_matches(':') == "nemesis" => OtherLine::Nemesis,
        (None, Some(serde_json::Value::Object(entries))) => OtherLine::Config(HistoryConfig { entries }),
        (Some(_) | None, _) => OtherLine::Neither,
    }
}

fn parse_event(text: &str) -> Result<HistoryEvent, String> {
    let event: HistoryEvent = serde_json::from_str(text).map_err(|e| {
        let place = format!(" at line {} column {}", e.line(), e.column());
        format!("{} (column {})", e.to_string().replace(&place, ""), e.column())
    })?;
    let scalar = |value: &serde_json::Value| !value.is_array() && !value.is_object();
    let all_scalar = event.ops().iter().all(|op| match op {
        MicroOp::Send { value, .. } => scalar(value),
        MicroOp::Poll { records } => records.values().flatten().all(|(_, value)| scalar(value)),
    });
    if all_scalar { Ok(event) } else { Err("a record's value is a scalar, not a list or an object".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{EventType, Function, Value};

    fn parse(text: &str) -> Result<(HistoryConfig, Vec<HistoryEvent>), HistoryError> {
        read(text.as_bytes())
    }

    const THREE: &str = r#"{"config":{"acks":1,"isolation_level":"read_committed","sub_via":["assign"],"ww_deps":true,"colour":{"x":[1]}}}
{"index":0,"process":0,"type":"invoke","f":"send","time":0,"value":[{"op":"send","key":"orders-0","value":1}]}
{"index":1,"process":0,"type":"ok","f":"send","time":1,"value":[{"op":"send","key":"orders-0","value":1,"offset":0}]}
{"index":2,"process":1,"type":"ok","f":"poll","time":2,"value":[{"op":"poll","records":{"orders-0":[[0,1]]}}]}
{"index":3,"process":1,"type":"info","f":"assign","time":3,"value":["orders-0"],"error":"TIMED_OUT","seek_to_beginning":true,"rebalance_log":[{"keys":["orders-0"]}]}
"#;

    #[test]
    fn what_is_written_is_what_was_read() {
        let (config, events) = parse(THREE).expect("a good history");
        assert_eq!(config.text("acks").as_deref(), Some("1"));
        assert_eq!(config.text("isolation.level").as_deref(), Some("read_committed"));
        assert_eq!(config.flag("ww_deps"), Some(true));
        assert_eq!(events.len(), 4);
        assert_eq!(events[3].keys(), ["orders-0"]);
        let mut out = Vec::new();
        write(&mut out, &config, &events).expect("memory takes everything");
        let again = parse(std::str::from_utf8(&out).expect("JSON is UTF-8")).expect("our own output");
        assert_eq!(again, (config, events));
    }

    #[test]
    fn histories_of_other_tools_are_accepted() {
        let (config, events) = parse(concat!(
            "{\"process\":7,\"type\":\"ok\",\"f\":\"send\",\"extra\":1,\"value\":[{\"op\":\"send\",\"key\":3,\"value\":\"a\"}]}\n",
            "\n",
            "{\"process\":\"nemesis\",\"type\":\"info\",\"f\":\"kill\",\"value\":null}\n",
            "{\"index\":90,\"process\":7,\"type\":\"fail\",\"f\":\"txn\",\"time\":1.5e3,\"error\":[\"x\",1],",
            "\"value\":[{\"op\":\"poll\",\"records\":{\"3\":[[null,true],[4,null]]}},{\"op\":\"poll\"}]}\r\n",
            "{\"index\":91,\"process\":7,\"type\":\"invoke\",\"f\":\"poll\",\"value\":[{\"op\":\"poll\",\"records\":null}]}",
        ))
        .expect("all of it is usable");
        assert!(config.is_empty());
        assert_eq!(events.iter().map(|e| e.index).collect::<Vec<_>>(), [0, 90, 91]);
        assert_eq!((events[1].time, events[1].error.as_deref()), (1500, Some("[\"x\",1]")));
        assert!(matches!(&events[0].ops()[0], MicroOp::Send { key, .. } if key == "3"));
        assert_eq!((events[2].kind, events[2].f), (EventType::Invoke, Function::Poll));
    }

    #[test]
    fn a_bad_line_is_named_with_its_number() {
        let good = r#"{"index":0,"process":0,"type":"ok","f":"crash"}"#;
        for (bad, word) in [
            ("{", "EOF"),
            (r#"{"index":0,"process":0,"type":"maybe","f":"send"}"#, "maybe"),
            (r#"{"index":0,"process":0,"type":"ok","f":"fly"}"#, "fly"),
            (r#"{"index":0,"type":"ok","f":"send"}"#, "process"),
            (r#"{"index":0,"process":0,"type":"ok","f":"send","value":[{"op":"send","key":"x"}]}"#, "value"),
            (r#"{"process":0,"type":"ok","f":"send","value":[{"op":"send","key":"x","value":[1]}]}"#, "scalar"),
            (r#"{"process":0,"type":"ok","f":"send","value":["x",{"op":"poll"}]}"#, "one list"),
            (r#"{"config":{}}"#, "first line"),
            (r#"{"process":0,"type":"ok","f":"poll","committed":{"x":"far"}}"#, "string"),
        ] {
            let error = parse(&format!("{good}\n\n{bad}\n")).expect_err(bad).to_string();
            assert!(error.starts_with("line 3: ") && error.contains(word), "{error}");
        }
    }

    #[test]
    fn every_bad_line_is_counted_and_the_first_ten_are_told() {
        let text = "{}\n".repeat(12) + "[1]\n";
        let error = parse(&text).expect_err("no line is an event").to_string();
        assert_eq!(error.lines().count(), 11, "{error}");
        assert!(error.starts_with("line 1: ") && error.contains("\nline 10: "), "{error}");
        assert!(error.ends_with("and 3 more bad lines"), "{error}");
    }

    #[test]
    fn a_setting_that_cannot_be_used_is_a_mistake() {
        for (config, said) in [
            (r#"{"acks":"2"}"#, "`acks` is \"2\"; it must be one of 0, 1, all, -1"),
            (r#"{"ww-deps":"yes"}"#, "`ww_deps` is \"yes\"; it must be true or false"),
            (r#"{"min.insync.replicas":1.5}"#, "`min_insync_replicas` is 1.5; it must be an integer"),
            (r#"{"sub_via":["assign","guess"]}"#, "it must be one or more of assign, subscribe"),
            (r#"{"sub_via":[1]}"#, "it must be one or more of assign, subscribe"),
        ] {
            let error = parse(&format!("\n{{\"config\":{config}}}\n")).expect_err(config).to_string();
            assert!(error.starts_with("line 2: config: ") && error.contains(said), "{error}");
        }
        for config in
            [r#"{"acks":-1,"sub_via":null}"#, r#"{"sub-via":"assign subscribe","cleanup.policy":"compact,delete"}"#]
        {
            parse(&format!("{{\"config\":{config},\"tool\":\"x\"}}\n")).expect("usable");
        }
    }

    #[test]
    fn groups_and_committed_offsets_are_kept() {
        let line = r#"{"index":0,"process":1,"type":"ok","f":"poll","time":0,"group":"g","committed":{"orders-0":5}}"#;
        let (config, events) = parse(line).expect("valid");
        assert_eq!(events[0].group.as_deref(), Some("g"));
        assert_eq!(events[0].committed.as_ref().map(|offsets| offsets["orders-0"]), Some(5));
        let mut out = Vec::new();
        write(&mut out, &config, &events).expect("memory takes everything");
        assert_eq!(String::from_utf8(out).expect("JSON is UTF-8").trim(), line);
    }

    #[test]
    fn an_empty_list_of_keys_is_no_keys() {
        let (_, events) = parse(r#"{"process":0,"type":"ok","f":"assign","value":[]}"#).expect("valid");
        assert!(events[0].keys().is_empty());
        assert_eq!(events[0].value, Some(Value::Ops(Vec::new())));
    }
}
