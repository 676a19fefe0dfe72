//! The JSON Schema of scenario files, for editors: built from the same lists as the parser, with the explanations of
//! docs/scenario-reference.md. It knows keys, types, words and forms; what depends on another part of the file (does
//! this topic exist, can this fault ever start) only the parser knows.

use serde_json::{Map, Value, json};

use super::disk::{BATCHES, BatchField, SEGMENTS, SURVIVALS};
use super::faults::requests;
use super::vocabulary::*;
use crate::config::{self, Kind, Scope};
use crate::defect::{self, Defect};
use crate::world::sim::Numbers;

const REFERENCE: &str = include_str!("../../docs/scenario-reference.md");

/// JSON Schema 2020-12.
pub fn schema() -> Value {
    let sections = "Top level";
    let list = |of: Value, items_min: u64| json!({"type": "array", "items": of, "minItems": items_min});
    let properties: Map<String, Value> = TOP_KEYS
        .iter()
        .map(|key| {
            let of = match *key {
                "seed" => json!({"type": "integer", "minimum": 0}),
                "duration" => named("duration"),
                "cluster" => table("`[cluster]`", CLUSTER_KEYS, &[], Some(Scope::Broker)),
                "link" => list(fixed(table("`[[link]]`", LINK_KEYS, &["from", "to"], None)), 0),
                "clock" => list(fixed(table("`[[clock]]`", CLOCK_KEYS, &["target"], None)), 0),
                "topic" => {
                    list(table("`[[topic]]`", TOPIC_KEYS, &["name", "replication-factor"], Some(Scope::Topic)), 1)
                }
                "matrix" => matrix(),
                "workload" => list(workload(), 1),
                "fault" => list(fault(), 0),
                "expect" => expect(),
                _ => json!(true),
            };
            ((*key).to_owned(), described(of, sections, key))
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A Faultline scenario",
        "description": "A claim about a cluster, the load, the faults, and what is expected.",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "required": ["topic", "workload"],
        "$defs": definitions(),
    })
}

fn named(definition: &str) -> Value {
    json!({"$ref": format!("#/$defs/{definition}")})
}

/// The forms of strings.
fn definitions() -> Value {
    let pattern = |pattern: String, example: &str| json!({"type": "string", "pattern": pattern, "examples": [example]});
    let number = r"[0-9]+(\.[0-9]+)?";
    let duration = format!(r"{number} *({})", UNITS.join("|"));
    let range = format!(r"{duration}(\.\.{duration})?");
    let share = format!(r"{number} *%");
    let target = |is_meant: &dyn Fn(&str) -> bool| {
        let names: Vec<&str> = TARGETS.iter().copied().filter(|name| is_meant(name)).collect();
        format!(r"^ *({})(\(.*\))? *$", names.join("|"))
    };
    let bandwidths: Vec<&str> = BANDWIDTH_UNITS.iter().map(|(unit, _)| *unit).collect();
    json!({
        "duration": pattern(format!("^{duration}$"), "2s"),
        "latency": pattern(format!(r"^ *({range}|({})\(.+\)) *$", DISTRIBUTIONS.join("|")), "0.2ms..0.5ms"),
        "bandwidth": pattern(format!(r"^ *{number} *({}) *$", bandwidths.join("|")), "100Mbit/s"),
        "share": pattern(format!("^ *{share} *$"), "5%"),
        "shift": pattern(format!(r"^ *[+-]?{duration}$"), "-10s"),
        "drift": pattern(r"^ *[+-]?[0-9]+ *ppm$".to_owned(), "200ppm"),
        "target": pattern(target(&|_| true), "leader(orders-0)"),
        // What is always the same machine.
        "machine": pattern(target(&|name| !["leader", "follower", "isr", "coordinator", "fault"].contains(&name)), "broker(1)"),
        // What can be stopped.
        "server": pattern(target(&|name| !["client", "machines"].contains(&name)), "leader(orders-0)"),
        "disk": pattern(format!(r"^ *({})\(.+\) *$", DISK_TARGETS.join("|")), "disk(1)"),
        "condition": pattern(format!(r"^ *({})\(.+\).*$", CONDITIONS.join("|")), "acked(orders) >= 200"),
        "comparison": {"anyOf": [
            {"type": "integer", "minimum": 0},
            pattern(r"^ *(==|!=|<=|>=|<|>) *[0-9]+ *$".to_owned(), "> 0"),
        ]},
    })
}

/// Adds what the reference says about `word` in its section whose heading begins with `section`.
fn described(mut schema: Value, section: &str, word: &str) -> Value {
    if let (Some(schema), Some(meaning)) = (schema.as_object_mut(), meaning(section, word)) {
        schema.insert("description".to_owned(), json!(meaning));
    }
    schema
}

/// The last cell of the row for `word`.
fn meaning(section: &str, word: &str) -> Option<String> {
    let heading = |line: &&str| line.starts_with('#') && line.trim_start_matches(['#', ' ']).starts_with(section);
    let mut lines = REFERENCE.lines().skip_while(|line| !heading(line));
    let depth = lines.next()?.bytes().take_while(|b| *b == b'#').count();
    let is_next = |line: &str| line.starts_with('#') && line.bytes().take_while(|b| *b == b'#').count() <= depth;
    let row = lines.take_while(|line| !is_next(line)).find(|line| {
        let first = line.strip_prefix("| ").and_then(|row| row.split(" |").next());
        first.is_some_and(|cell| cell.split(", ").any(|name| name == format!("`{word}`")))
    })?;
    let cell = row.trim_end_matches([' ', '|']).rsplit(" | ").next()?;
    (!cell.is_empty()).then(|| cell.to_owned())
}

/// A table with these keys, described in its section of the reference.
fn table(section: &str, keys: &[&str], required: &[&str], scope: Option<Scope>) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .map(|key| ((*key).to_owned(), described(value_of(key, scope).unwrap_or(json!(true)), section, key)))
        .collect();
    json!({"type": "object", "properties": properties, "additionalProperties": false, "required": required})
}

/// A table whose targets are the same machines from beginning to end.
fn fixed(mut table: Value) -> Value {
    for key in ["target", "from", "to"] {
        if let Some(target) = table["properties"].get_mut(key) {
            target["$ref"] = named("machine")["$ref"].take();
        }
    }
    table
}

/// What a key's value is like, whatever table it is in; `None` for a key that nobody described yet.
fn value_of(key: &str, scope: Option<Scope>) -> Option<Value> {
    let at_least = |minimum: i64| json!({"type": "integer", "minimum": minimum});
    Some(match key {
        "config" => configuration(scope?),
        "at" | "after" | "for" | "start" | "jitter" | "period" | "event-cost" | "processing" | "end-at"
        | "back-after" | "pause-at" | "pause-for" | "seek-at" => named("duration"),
        "latency" => named("latency"),
        "bandwidth" => named("bandwidth"),
        "loss" | "duty" => named("share"),
        "offset" | "timestamp-offset" => named("shift"),
        "by" => json!({"anyOf": [named("duration"), named("shift")]}),
        "drift" => named("drift"),
        "target" | "from" | "to" => named("target"),
        "when" => named("condition"),
        "both-ways" | "one-way" | "rack-aware" | "static" => json!({"type": "boolean"}),
        "log-dirs" => json!({"type": "integer", "minimum": 1, "maximum": 16}),
        "pages" | "entries" => {
            let number = json!({"type": "integer", "minimum": 0, "maximum": Numbers::MAX});
            json!({"anyOf": [words(SURVIVALS), {"type": "array", "items": number, "minItems": 1}]})
        }
        "segment" => words(SEGMENTS),
        "batch" => words(BATCHES),
        "field" => words(BatchField::NAMES),
        "free-bytes" | "before-offset" => at_least(0),
        "byte" => json!({"type": "integer"}),
        "bit" => json!({"type": "integer", "minimum": 0, "maximum": 7}),
        "brokers" => json!({"type": "integer", "minimum": 1, "maximum": 100}),
        "partitions" => json!({"type": "integer", "minimum": 1, "maximum": 1000}),
        "replication-factor" => json!({"type": "integer", "minimum": 1, "maximum": i16::MAX}),
        "value-bytes" => json!({"type": "integer", "minimum": 16, "maximum": i32::MAX}),
        "rate" => json!({"type": "integer", "minimum": 1, "maximum": 1_000_000}),
        "records" | "keys" | "count" => at_least(1),
        "tombstones" => at_least(2),
        "key-prefix" | "group" => json!({"type": "string"}),
        "commit" => words(COMMIT_STYLES),
        "end" => words(ENDINGS),
        "seek-to" => words(SEEKS),
        "poison" => at_least(0),
        "on-poison" => words(POISON_REACTIONS),
        "window" => json!({"type": "integer", "minimum": 1, "maximum": 1_000_000}),
        "format" => words(VALUE_FORMATS),
        "defects" => {
            json!({"type": "array", "items": {"enum": defect_names().collect::<Vec<_>>()}})
        }
        "racks" => json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
        "groups" => {
            let group = json!({"type": "array", "items": named("target"), "minItems": 1});
            json!({"type": "array", "items": group, "minItems": 2})
        }
        "name" => json!({"type": "string", "pattern": "^[a-zA-Z0-9._-]+$"}),
        "topic" => json!({"type": "string"}),
        "acks" => setting(Kind::Choice(&["0", "1", "all", "-1"])),
        "kind" => json!({"enum": WORKLOAD_KINDS}),
        "do" => json!({"enum": ACTIONS}),
        "direction" => json!({"enum": DIRECTIONS}),
        "request" => json!({"enum": requests().into_iter().map(|(name, _)| name).collect::<Vec<_>>()}),
        _ => return None,
    })
}

/// One of the names of a table.
fn words<T>(names: &[(&'static str, T)]) -> Value {
    json!({"enum": names.iter().map(|(name, _)| *name).collect::<Vec<_>>()})
}

/// Kafka's keys of a scope, quoted or not: unquoted ones are tables to TOML.
fn configuration(scope: Scope) -> Value {
    let mut properties = Map::new();
    for key in config::modelled(scope) {
        for name in [Some(key.name), key.alias].into_iter().flatten() {
            let mut of = described(setting(key.kind), &format!("{}:", section_of(scope)), key.name);
            of.as_object_mut().expect("a setting is an object").insert("default".to_owned(), json!(key.default));
            properties.insert(name.to_owned(), of);
            if let Some((first, _)) = name.split_once('.') {
                properties.entry(first.to_owned()).or_insert(json!({"type": "object"}));
            }
        }
    }
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

fn section_of(scope: Scope) -> &'static str {
    match scope {
        Scope::Broker => "Broker",
        Scope::Topic => "Topic",
        Scope::Producer => "Producer",
        Scope::Consumer => "Consumer",
    }
}

/// A configuration's value: as itself, or as the string of it.
fn setting(kind: Kind) -> Value {
    let whole = json!({"type": ["integer", "string"], "pattern": "^-?[0-9]+$"});
    let bounded = |minimum: i64, maximum: Option<i64>| {
        let mut of = whole.clone();
        of["minimum"] = json!(minimum);
        if let Some(maximum) = maximum {
            of["maximum"] = json!(maximum);
        }
        of
    };
    match kind {
        Kind::Int { min, max } => bounded(min, Some(max).filter(|max| *max != i64::MAX)),
        Kind::Millis { min } | Kind::Seconds { min } => bounded(min, None),
        Kind::Bool => json!({"enum": [true, false, "true", "false"]}),
        Kind::Ratio => json!({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string"}]}),
        Kind::Text => json!({"type": ["string", "integer", "boolean"]}),
        Kind::Choice(words) => {
            let numbers = words.iter().filter_map(|word| word.parse::<i64>().ok()).map(|number| json!(number));
            let words = words.iter().map(|word| json!(word));
            json!({"enum": words.chain(numbers).collect::<Vec<_>>()})
        }
    }
}

fn defect_names() -> impl Iterator<Item = &'static str> {
    Defect::ALL.iter().map(|defect| defect.name())
}

fn matrix() -> Value {
    let values = json!({"type": "array", "items": {"type": ["string", "integer", "number", "boolean"]}, "minItems": 1});
    let names = Scope::ALL.into_iter().flat_map(config::modelled).flat_map(|key| [Some(key.name), key.alias]).flatten();
    let defects = defect_names().chain([defect::NONE]).collect::<Vec<_>>().join("|");
    let set = json!({"type": "string", "pattern": format!(r"^({defects})(\{}({defects}))*$", defect::SEPARATOR)});
    let mut properties = Map::new();
    properties.insert(DEFECTS_AXIS.to_owned(), json!({"type": "array", "items": set, "minItems": 1}));
    // An axis may say whose key it is: `producer.compression.type`.
    let scoped = [Scope::Broker, Scope::Producer, Scope::Consumer]
        .into_iter()
        .flat_map(|scope| config::modelled(scope).into_iter().map(move |key| format!("{scope}.{}", key.name)));
    for name in names.map(str::to_owned).chain(scoped) {
        properties.insert(name.clone(), values.clone());
        if let Some((first, _)) = name.split_once('.') {
            properties.entry(first).or_insert(json!({"type": "object"}));
        }
    }
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

fn workload() -> Value {
    let kind = |kind: &str, keys: &[&str], required: &[&str], scope: Scope| {
        let mut of = table("`[[workload]]`", keys, required, Some(scope));
        of["properties"]["kind"] = json!({"const": kind});
        json!({"if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": of})
    };
    let kinds = [
        kind("produce", PRODUCE_KEYS, &["kind", "topic", "records"], Scope::Producer),
        kind("consume", CONSUME_KEYS, &["kind", "topic"], Scope::Consumer),
    ];
    json!({
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": described(json!({"enum": WORKLOAD_KINDS}), "`[[workload]]`", "kind")},
        "allOf": kinds,
    })
}

/// Each action needs some keys, may have others, and forbids the rest.
fn fault() -> Value {
    let mut of = table("`[[fault]]`", FAULT_KEYS, &["do"], Some(Scope::Broker));
    let actions = ACTIONS.iter().filter_map(|action| {
        let (needed, optional) = keys_of(action)?;
        let is_its_own = |key: &&&str| START_KEYS.contains(key) || needed.contains(key) || optional.contains(key);
        let foreign = FAULT_KEYS.iter().filter(|key| !is_its_own(key));
        let mut properties: Map<String, Value> = foreign.map(|key| ((*key).to_owned(), json!(false))).collect();
        if TOPIC_ACTIONS.contains(action) {
            properties.insert("target".to_owned(), json!({"pattern": "^[a-zA-Z0-9._-]+$"}));
        }
        let then = json!({"required": needed, "properties": properties});
        Some(json!({"if": {"properties": {"do": {"const": action}}, "required": ["do"]}, "then": then}))
    });
    of["allOf"] = actions.collect();
    of["oneOf"] = json!([{"required": ["at"]}, {"required": ["when"]}]);
    of["dependentRequired"] = json!({"after": ["when"]});
    // A topic or a partition for what is asked of the cluster, a target for everything else.
    of["properties"]["target"] = described(json!({"type": "string"}), "`[[fault]]`", "target");
    let stops = ["crash", "power-loss", "crash-loop", "restart", "controlled-shutdown"];
    let others: Vec<&&str> = ACTIONS
        .iter()
        .filter(|action| !TOPIC_ACTIONS.iter().chain(&stops).chain(DISK_ACTIONS).any(|a| a == *action))
        .collect();
    let all = of["allOf"].as_array_mut().expect("just set");
    for (actions, target) in [(json!(stops), "server"), (json!(DISK_ACTIONS), "disk"), (json!(others), "target")] {
        let condition = json!({"properties": {"do": {"enum": actions}}, "required": ["do"]});
        all.push(json!({"if": condition, "then": {"properties": {"target": named(target)}}}));
    }
    of
}

fn expect() -> Value {
    let metrics: Map<String, Value> = METRICS
        .iter()
        .map(|metric| (metric.name.to_owned(), described(named("comparison"), "`[expect]`", metric.name)))
        .collect();
    let of_selector = json!({"type": "object", "properties": metrics, "additionalProperties": false});
    json!({"type": "object", "additionalProperties": of_selector})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_every_table_has_a_form() {
        let tables = [CLUSTER_KEYS, LINK_KEYS, CLOCK_KEYS, TOPIC_KEYS, PRODUCE_KEYS, CONSUME_KEYS, FAULT_KEYS];
        let without: Vec<&str> =
            tables.concat().into_iter().filter(|key| value_of(key, Some(Scope::Broker)).is_none()).collect();
        assert_eq!(without, Vec::<&str>::new(), "describe them in `value_of`");
        let top = schema();
        assert!(TOP_KEYS.iter().all(|key| top["properties"][key].is_object()), "describe it in `schema`");
    }

    #[test]
    fn every_action_has_its_keys_and_no_others() {
        for action in ACTIONS {
            let (needed, optional) = keys_of(action).unwrap_or_else(|| panic!("{action} has no keys"));
            assert!(needed.iter().chain(optional).all(|key| FAULT_KEYS.contains(key)), "{action}");
            assert!(needed.iter().all(|key| !optional.contains(key)), "{action}");
        }
        assert_eq!(keys_of("no such action"), None);
    }

    #[test]
    fn explanations_come_from_the_reference() {
        let schema = schema();
        let at = |pointer: &str| schema.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        assert!(at("/properties/cluster/properties/brokers/description").contains("node ids"));
        assert!(at("/properties/fault/items/properties/for/description").starts_with("how long"));
        let config = "/properties/cluster/properties/config/properties/min.insync.replicas";
        assert!(at(&format!("{config}/description")).contains("in-sync replicas"));
        assert_eq!(at(&format!("{config}/default")), "1");
    }
}
