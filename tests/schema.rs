//! The JSON Schema for editors agrees with the parser: it accepts every shipped scenario, and of the wrong files it
//! rejects all that it can know to be wrong. The validator knows the keywords that the schema uses, and no others.

use std::path::{Path, PathBuf};

use faultline::scenario::{find_files, schema};
use serde_json::{Map, Value, json};
use toml_edit::{DocumentMut, Item};

/// Wrong files whose mistake is in how two parts of the file go together, or not in what TOML yields: only the parser
/// can know. The rest must be rejected.
const BEYOND_A_SCHEMA: &[&str] = &[
    "a_session_that_ends_before_the_next_heartbeat",
    "acks_set_twice",
    "axis_also_set",
    "axis_changes_nothing",
    "axis_of_servers_and_clients",
    "axis_value_twice",
    "bit_rot_of_a_byte_of_a_batch",
    "bit_rot_of_a_disk",
    "bit_rot_of_nothing",
    "bit_rot_of_two_places",
    "cache_of_a_file",
    "client_rack_of_no_broker",
    "clock_beyond_twenty_years",
    "compacted_topic_without_keys",
    "condition_never_holds",
    "condition_on_unknown_topic",
    "condition_without_comparison",
    "config_set_under_two_names",
    "controller_controlled_shutdown",
    "defect_twice",
    "defects_also_axis",
    "delete_records_of_a_compacted_topic",
    "delivery_timeout_too_short",
    "disk_fault_of_a_client",
    "disk_not_closed",
    "disk_unknown_inside",
    "disk_without_log_directory",
    "duplicate_topic",
    "expectations_contradict",
    "fault_after_the_end",
    "fault_refers_to_itself",
    "fault_refers_to_none",
    "fault_refers_to_one_without_machines",
    "faults_wait_for_each_other",
    "fetch_wait_beyond_lag_time",
    "file_replaced",
    "file_with_bad_pattern",
    "file_without_pattern",
    "group_protocol_without_heartbeats_of_its_own",
    "idempotence_with_many_in_flight",
    "idempotence_without_acks_all",
    "latency_with_its_mean_below_its_minimum",
    "link_like_every_other",
    "loss_of_everything",
    "matrix_min_insync_replicas_above_replication_factor",
    "member_key_without_group",
    "member_that_does_not_end",
    "member_that_ends_at_no_time",
    "member_that_ends_before_it_starts",
    "member_that_pauses_without_end",
    "min_insync_replicas_above_replication_factor",
    "no_claim",
    "partition_groups_overlap",
    "partitions_for_a_partition",
    "partitions_taken_away",
    "poison_without_reaction",
    "rack_aware_without_racks",
    "racks_of_fewer_brokers",
    "replication_factor_above_brokers",
    "restart_with_a_config_that_contradicts",
    "selector_matches_nothing",
    "selector_of_fixed_acks",
    "target_without_machine",
    "tombstones_without_keys",
    "unknown_group",
    "unknown_rack",
    "unknown_topic_in_workload",
];

#[test]
fn every_shipped_scenario_is_valid() {
    let schema = schema();
    for file in find_files(&[PathBuf::from("scenarios")]).expect("scenarios are shipped") {
        let problems = problems(&schema, &file).expect("a scenario is TOML");
        assert_eq!(problems, Vec::<String>::new(), "{}", file.display());
    }
}

#[test]
fn every_wrong_file_is_rejected_unless_a_schema_cannot_know() {
    let schema = schema();
    let mut accepted = Vec::new();
    for file in find_files(&[PathBuf::from("tests/fixtures/wrong")]).expect("fixtures exist") {
        if problems(&schema, &file).is_some_and(|problems| problems.is_empty()) {
            accepted.push(file.file_stem().expect("a file has a name").to_string_lossy().into_owned());
        }
    }
    assert_eq!(accepted, BEYOND_A_SCHEMA);
}

#[test]
fn the_validator_sees_what_is_wrong() {
    let schema = schema();
    let whole = json!({
        "topic": [{"name": "orders", "replication-factor": 3}],
        "workload": [{"kind": "produce", "topic": "orders", "records": 5}],
        "fault": [{"at": "1s", "do": "heal"}],
        "expect": {"*": {"sent": 5}},
    });
    assert_eq!(validate(&schema, &schema, &whole, ""), Vec::<String>::new());
    let spoil = |pointer: &str, value: Value| {
        let mut spoiled = whole.clone();
        *spoiled.pointer_mut(pointer).expect("it is there") = value;
        validate(&schema, &schema, &spoiled, "")
    };
    assert_eq!(spoil("/topic", json!([])), ["/topic: fewer than 1 items"]);
    assert_eq!(spoil("/topic/0/name", json!(1)), ["/topic/0/name: not a string"]);
    assert_eq!(spoil("/fault/0/at", json!("1 second")), ["/fault/0/at: does not match"]);
    assert_eq!(spoil("/fault/0/do", json!("crash")), ["/fault/0: lacks target"]);
    assert_eq!(spoil("/expect/*/sent", json!("=> 5")), ["/expect/*/sent: fits none of the forms"]);
}

/// What the schema finds in a file; `None` if that is not TOML.
fn problems(schema: &Value, file: &Path) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(file).expect("the file is readable");
    let document: DocumentMut = text.parse().ok()?;
    Some(validate(schema, schema, &json_of(document.as_item()), ""))
}

fn json_of(item: &Item) -> Value {
    match item {
        Item::None => Value::Null,
        Item::Value(value) => json_of_value(value),
        Item::Table(table) => table.iter().map(|(key, item)| (key.to_owned(), json_of(item))).collect(),
        Item::ArrayOfTables(tables) => tables.iter().map(|table| json_of(&Item::Table(table.clone()))).collect(),
    }
}

fn json_of_value(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => json!(text.value()),
        toml_edit::Value::Integer(number) => json!(number.value()),
        toml_edit::Value::Float(number) => json!(number.value()),
        toml_edit::Value::Boolean(value) => json!(value.value()),
        toml_edit::Value::Datetime(date) => json!(date.to_string()),
        toml_edit::Value::Array(array) => array.iter().map(json_of_value).collect(),
        toml_edit::Value::InlineTable(table) => {
            table.iter().map(|(key, value)| (key.to_owned(), json_of_value(value))).collect()
        }
    }
}

/// JSON Schema 2020-12, as far as the schema goes: an unknown keyword is a panic.
fn validate(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let schema = match schema {
        Value::Bool(true) => return Vec::new(),
        Value::Bool(false) => return vec![format!("{at}: not allowed here")],
        schema => schema.as_object().expect("a schema is a table or a boolean"),
    };
    let mut problems = Vec::new();
    let fits = |schema: &Value| validate(root, schema, value, at).is_empty();
    for (keyword, argument) in schema {
        let list = || argument.as_array().expect("a list").iter();
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "examples" | "default" | "then" => {}
            "$ref" => {
                let pointer = argument.as_str().expect("a string").trim_start_matches('#');
                problems.extend(validate(root, root.pointer(pointer).expect("it is defined"), value, at));
            }
            "type" => {
                let types: Vec<&str> = match argument {
                    Value::String(one) => vec![one],
                    several => several.as_array().expect("types").iter().filter_map(Value::as_str).collect(),
                };
                if !types.iter().any(|name| is_of_type(value, name)) {
                    problems.push(format!("{at}: not a {}", types.join(" or ")));
                }
            }
            "enum" if list().all(|one| one != value) => problems.push(format!("{at}: not one of the words")),
            "const" if argument != value => problems.push(format!("{at}: not {argument}")),
            "enum" | "const" => {}
            "minimum" if value.as_i64().is_some_and(|n| n < argument.as_i64().expect("a number")) => {
                problems.push(format!("{at}: below {argument}"));
            }
            "maximum" if value.as_i64().is_some_and(|n| n > argument.as_i64().expect("a number")) => {
                problems.push(format!("{at}: above {argument}"));
            }
            "minimum" | "maximum" => {}
            "pattern" if value.as_str().is_some_and(|text| !matches(argument.as_str().expect("a string"), text)) => {
                problems.push(format!("{at}: does not match"));
            }
            "pattern" => {}
            "minItems" => {
                let least = argument.as_u64().expect("a number");
                if value.as_array().is_some_and(|items| (items.len() as u64) < least) {
                    problems.push(format!("{at}: fewer than {least} items"));
                }
            }
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    problems.extend(validate(root, argument, item, &format!("{at}/{i}")));
                }
            }
            "properties" => {
                for (key, of) in argument.as_object().expect("properties") {
                    if let Some(inner) = value.get(key) {
                        problems.extend(validate(root, of, inner, &format!("{at}/{key}")));
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                let is_known = |key: &String| known.is_some_and(|known| known.contains_key(key));
                for (key, inner) in value.as_object().into_iter().flatten().filter(|(key, _)| !is_known(key)) {
                    problems.extend(validate(root, argument, inner, &format!("{at}/{key}")));
                }
            }
            "required" => problems.extend(lacking(value, list(), at)),
            "dependentRequired" => {
                for (key, needed) in argument.as_object().expect("a table") {
                    if value.get(key).is_some() {
                        problems.extend(lacking(value, needed.as_array().expect("a list").iter(), at));
                    }
                }
            }
            "allOf" => problems.extend(list().flat_map(|one| validate(root, one, value, at))),
            "anyOf" if !list().any(fits) => problems.push(format!("{at}: fits none of the forms")),
            "oneOf" if list().filter(|one| fits(one)).count() != 1 => {
                problems.push(format!("{at}: fits not exactly one of the forms"));
            }
            "anyOf" | "oneOf" => {}
            "if" if fits(argument) => problems.extend(validate(root, &schema["then"], value, at)),
            "if" => {}
            other => panic!("the validator does not know `{other}`"),
        }
    }
    problems
}

fn lacking<'a>(value: &Value, needed: impl Iterator<Item = &'a Value>, at: &str) -> Vec<String> {
    let empty = Map::new();
    let has = value.as_object().unwrap_or(&empty);
    let names = needed.map(|key| key.as_str().expect("a key"));
    names.filter(|key| !has.contains_key(*key)).map(|key| format!("{at}: lacks {key}")).collect()
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("the validator does not know the type `{other}`"),
    }
}

/// Whether a regular expression of the schema matches a whole text: literals, `.`, classes, groups, `|`, `?`, `*`, `+`.
fn matches(pattern: &str, text: &str) -> bool {
    let inner = pattern.strip_prefix('^').and_then(|p| p.strip_suffix('$')).expect("patterns are anchored");
    ends(inner, text).iter().any(|rest| rest.is_empty())
}

/// What is left of `text` after each way in which `pattern` can match its beginning.
fn ends<'t>(pattern: &str, text: &'t str) -> Vec<&'t str> {
    let branches = split_outside(pattern, '|');
    if branches.len() > 1 {
        return branches.iter().flat_map(|branch| ends(branch, text)).collect();
    }
    if pattern.is_empty() {
        return vec![text];
    }
    let (atom, rest) = pattern.split_at(atom_len(pattern));
    let (quantifier, rest) = match rest.chars().next() {
        Some(c @ ('?' | '*' | '+')) => (Some(c), &rest[1..]),
        Some(_) | None => (None, rest),
    };
    let once = |from: &'t str| if from.is_empty() && !atom.starts_with('(') { Vec::new() } else { one(atom, from) };
    let mut reached = if matches!(quantifier, Some('?' | '*')) { vec![text] } else { Vec::new() };
    let mut open = once(text);
    while let Some(from) = open.pop() {
        if !reached.contains(&from) {
            reached.push(from);
            if matches!(quantifier, Some('*' | '+')) {
                open.extend(once(from));
            }
        }
    }
    reached.into_iter().flat_map(|from| ends(rest, from)).collect()
}

/// What is left after each way in which one atom matches.
fn one<'t>(atom: &str, text: &'t str) -> Vec<&'t str> {
    if let Some(group) = atom.strip_prefix('(') {
        return ends(&group[..group.len() - 1], text);
    }
    let Some(c) = text.chars().next() else { return Vec::new() };
    let fits = match atom.strip_prefix('[') {
        Some(class) => is_in_class(&class[..class.len() - 1], c),
        None => atom == "." || atom.trim_start_matches('\\').starts_with(c),
    };
    if fits { vec![&text[c.len_utf8()..]] } else { Vec::new() }
}

fn is_in_class(class: &str, c: char) -> bool {
    let chars: Vec<char> = class.chars().collect();
    let mut i = 0;
    while i < chars.len() {
        if chars.get(i + 1) == Some(&'-') && i + 2 < chars.len() {
            if (chars[i]..=chars[i + 2]).contains(&c) {
                return true;
            }
            i += 3;
        } else if chars[i] == c {
            return true;
        } else {
            i += 1;
        }
    }
    false
}

/// The length of the first atom: a character, an escape, a class or a group.
fn atom_len(pattern: &str) -> usize {
    match pattern.chars().next().expect("not empty") {
        '\\' => 1 + pattern[1..].chars().next().map_or(0, char::len_utf8),
        '[' => pattern.find(']').expect("a class is closed") + 1,
        '(' => {
            let mut depth = 0;
            let close = pattern.char_indices().find(|(i, c)| {
                let is_escaped = *i > 0 && pattern.as_bytes()[i - 1] == b'\\';
                depth += i32::from(*c == '(' && !is_escaped) - i32::from(*c == ')' && !is_escaped);
                depth == 0
            });
            close.expect("a group is closed").0 + 1
        }
        c => c.len_utf8(),
    }
}

/// Splits at `separator` outside of groups and classes.
fn split_outside(pattern: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    while at < pattern.len() {
        if pattern[at..].starts_with(separator) {
            parts.push(&pattern[start..at]);
            start = at + separator.len_utf8();
            at = start;
        } else {
            at += atom_len(&pattern[at..]);
        }
    }
    parts.push(&pattern[start..]);
    parts
}

#[test]
fn the_matcher_knows_the_expressions_of_the_schema() {
    for (pattern, good, bad) in [
        (r"^[0-9]+(\.[0-9]+)? *(us|ms|s)$", vec!["2s", "0.5ms", "10 us"], vec!["", "2", "s", "2.s", "2sec", "2s "]),
        (r"^ *(a|b)(\(.*\))? *$", vec!["a", " b(x, 1) ", "a()"], vec!["c", "a(", "ab"]),
        (r"^[+-]?[a-c._-]+$", vec!["a", "-b.c", "_"], vec!["", "d", "+"]),
    ] {
        assert!(good.iter().all(|text| matches(pattern, text)), "{pattern}");
        assert!(bad.iter().all(|text| !matches(pattern, text)), "{pattern}");
    }
}
