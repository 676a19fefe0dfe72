//! Reading and writing histories as JSON Lines.

use std::io::{self, BufRead, Write};

use super::{HistoryConfig, HistoryEvent, MicroOp};

/// A history that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// One line is not an event. Lines count from 1.
    #[error("line {line}: {reason}")]
    Line { line: usize, reason: String },
    #[error(transparent)]
    Io(#[from] io::Error),
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
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if input.read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        let text = std::str::from_utf8(&bytes).map_err(|e| bad(line, format!("not UTF-8: {e}")))?.trim();
        if text.is_empty() {
            continue;
        }
        if config.is_none() && events.is_empty() {
            config = parse_config(text);
            if config.is_some() {
                continue;
            }
        }
        match parse_event(text) {
            Ok(mut event) => {
                if event.index == HistoryEvent::INDEX_MISSING {
                    event.index = events.len() as u64;
                }
                events.push(event);
            }
            Err(_) if is_nemesis(text) => {}
            Err(reason) => return Err(bad(line, reason)),
        }
    }
    Ok((config.unwrap_or_default(), events))
}

fn bad(line: usize, reason: String) -> HistoryError {
    HistoryError::Line { line, reason }
}

fn parse_config(text: &str) -> Option<HistoryConfig> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct ConfigLine {
        config: HistoryConfig,
    }
    serde_json::from_str::<ConfigLine>(text).ok().map(|line| line.config)
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

fn is_nemesis(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text)
        .is_ok_and(|line| line["process"].as_str().is_some_and(|name| name.trim_start_matches(':') == "nemesis"))
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
            (r#"{"config":{}}"#, "process"),
        ] {
            let error = parse(&format!("{good}\n\n{bad}\n")).expect_err(bad).to_string();
            assert!(error.starts_with("line 3: ") && error.contains(word), "{error}");
        }
    }

    #[test]
    fn an_empty_list_of_keys_is_no_keys() {
        let (_, events) = parse(r#"{"process":0,"type":"ok","f":"assign","value":[]}"#).expect("valid");
        assert!(events[0].keys().is_empty());
        assert_eq!(events[0].value, Some(Value::Ops(Vec::new())));
    }
}
