//! Files that are right: what they mean, variant by variant.

use std::path::PathBuf;
use std::time::Duration;

use super::vocabulary::*;
use super::*;
use crate::config::{self, Acks, Scope};
use crate::defect::Defect;
use crate::world::sim::{Direction, Latency, LinkModel, Ppm, Survivors};

const TOPIC: &str = "[[topic]]\nname = \"orders\"\nreplication-factor = 3\n";
const PRODUCE: &str = "[[workload]]\nkind = \"produce\"\ntopic = \"orders\"\nrecords = 500\n";

fn read(parts: &[&str]) -> Scenario {
    let text = format!("# A claim.\n{}", parts.concat());
    parse("test", "test.toml", &text).unwrap_or_else(|error| panic!("{}", error.render(false, 120)))
}

fn labels(scenario: &Scenario) -> Vec<String> {
    scenario.variants.iter().map(Variant::label).collect()
}

fn acks_of(variant: &Variant) -> Vec<Acks> {
    let acks = variant.workloads.iter().filter_map(|workload| match workload {
        Workload::Produce { config, .. } => Some(config.acks),
        Workload::Consume { .. } => None,
    });
    acks.collect()
}

#[test]
fn acks_is_an_axis_unless_every_producer_sets_it() {
    let scenario = read(&[TOPIC, PRODUCE]);
    assert_eq!(labels(&scenario), ["acks=0", "acks=1", "acks=all"]);
    assert_eq!(scenario.variants.iter().flat_map(acks_of).collect::<Vec<_>>(), [Acks::Zero, Acks::One, Acks::All]);

    let scenario = read(&[TOPIC, PRODUCE, "acks = \"1\"\n"]);
    assert_eq!(labels(&scenario), ["-"]);
    assert_eq!(acks_of(&scenario.variants[0]), [Acks::One]);

    let scenario = read(&[TOPIC, PRODUCE, "config = { acks = -1 }\n", PRODUCE]);
    assert_eq!(labels(&scenario), ["acks=0", "acks=1", "acks=all"]);
    assert_eq!(acks_of(&scenario.variants[0]), [Acks::All, Acks::Zero]);
}

#[test]
fn the_first_axis_varies_slowest() {
    let matrix = "[matrix]\n\"min.insync.replicas\" = [1, 2]\nunclean.leader.election.enable = [true, false]\n";
    let scenario = read(&[TOPIC, matrix, PRODUCE, "acks = \"all\"\n"]);
    assert_eq!(
        labels(&scenario),
        [
            "min.insync.replicas=1,unclean.leader.election.enable=true",
            "min.insync.replicas=1,unclean.leader.election.enable=false",
            "min.insync.replicas=2,unclean.leader.election.enable=true",
            "min.insync.replicas=2,unclean.leader.election.enable=false",
        ]
    );
    let set: Vec<_> = scenario
        .variants
        .iter()
        .map(|v| (v.cluster.config.min_insync_replicas, v.cluster.config.unclean_leader_election_enable))
        .collect();
    assert_eq!(set, [(1, true), (1, false), (2, true), (2, false)]);
}

#[test]
fn an_axis_of_a_client_key_sets_every_client_that_has_it() {
    let matrix = "[matrix]\n\"request.timeout.ms\" = [1000, 2000]\n";
    let consume = "[[workload]]\nkind = \"consume\"\ntopic = \"orders\"\n";
    let scenario = read(&[TOPIC, matrix, PRODUCE, "acks = \"all\"\n", consume]);
    for (variant, millis) in scenario.variants.iter().zip([1000, 2000]) {
        for workload in &variant.workloads {
            let timeout = match workload {
                Workload::Produce { config, .. } => config.request_timeout,
                Workload::Consume { config, .. } => config.request_timeout,
            };
            assert_eq!(timeout, Duration::from_millis(millis));
        }
    }
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let scenario = read(&[TOPIC, PRODUCE, "acks = \"all\"\n"]);
    assert_eq!((scenario.title.as_str(), scenario.seed, scenario.duration), ("A claim.", 1, None));
    let variant = &scenario.variants[0];
    assert_eq!(variant.cluster.brokers, 3);
    assert_eq!(variant.cluster.link, LinkModel::default());
    let (min, max) = (Duration::from_micros(200), Duration::from_micros(500));
    assert_eq!(LinkModel::default().latency, Latency::Uniform { min, max });
    assert_eq!((variant.topics[0].partitions, variant.topics[0].replication_factor), (1, 3));
    assert!(matches!(
        &variant.workloads[0],
        Workload::Produce { name, rate: None, value_bytes: 100, keys: None, start: Duration::ZERO, config, .. }
            if name == "producer-1" && config.client_id == "producer-1"
    ));
}

#[test]
fn defects_are_the_clusters_or_an_axis_whose_values_may_join_several() {
    let fixed = read(&["[cluster]\ndefects = [\"isr-no-leso\", \"truncate-to-hw\"]\n", TOPIC, PRODUCE]);
    assert_eq!(fixed.variants[0].cluster.defects.to_string(), "truncate-to-hw+isr-no-leso");
    let axis = read(&[
        TOPIC,
        PRODUCE,
        "[matrix]\nacks = [\"all\"]\ndefects = [\"none\", \"isr-no-leso+truncate-to-hw\"]\n",
        "[expect]\n\"defects=isr-no-leso+truncate-to-hw\" = { lost = \"> 0\" }\n\"defects=none\" = { lost = 0 }",
    ]);
    assert_eq!(labels(&axis), ["acks=all,defects=none", "acks=all,defects=truncate-to-hw+isr-no-leso"]);
    let [none, both] = &axis.variants[..] else { panic!("two variants") };
    assert!(none.cluster.defects.is_empty());
    assert!(both.cluster.defects.has(Defect::TruncateToHw) && both.cluster.defects.has(Defect::IsrNoLeso));
    assert_eq!((none.expect.len(), both.expect.len()), (1, 1), "a selector may name the defects in any order");
}

#[test]
fn configuration_keys_need_no_quotes() {
    let quoted = read(&["[cluster.config]\n\"min.insync.replicas\" = 2\n", TOPIC, PRODUCE]);
    let dotted = read(&["[cluster.config]\nmin.insync.replicas = 2\n", TOPIC, PRODUCE]);
    assert_eq!(quoted.variants[0].cluster.config, dotted.variants[0].cluster.config);
    assert_eq!(dotted.variants[0].cluster.config.min_insync_replicas, 2);
}

#[test]
fn faults_come_in_the_order_of_the_file_with_their_lines() {
    let faults = r#"
[[fault]]
when = "acked(orders) >= 200"
after = "100ms"
do = "power-loss"
target = "leader(orders-0)"
for = "5s"

[[fault]]
at = "2s"
do = "partition"
groups = [["fault(1)"], ["follower(orders-0)", "controller"]]
one-way = true

[[fault]]
at = "3s"
do = "delay"
from = "broker(1)"
to = "client(producer-1)"
by = "500ms"
both-ways = true

[[fault]]
when = "fault(3).started"
do = "elect-preferred"
target = "orders-0"
"#;
    let scenario = read(&[TOPIC, PRODUCE, faults]);
    let faults = &scenario.variants[0].faults;
    assert_eq!(
        faults[0],
        Fault {
            when: When::Condition(Condition::Count {
                what: Counter::Acked,
                of: "orders".into(),
                compare: Comparison::Ge,
                value: 200
            }),
            after: Duration::from_millis(100),
            action: Action::PowerLoss(Survivors::NOTHING),
            target: Some(Target::Leader("orders-0".into())),
            duration: Some(Duration::from_secs(5)),
            text: ("power-loss".into(), "leader(orders-0)".into()),
            line: 10,
        }
    );
    assert_eq!(
        faults[1].action,
        Action::Partition {
            groups: vec![vec![Target::SameAs(1)], vec![Target::Follower("orders-0".into(), None), Target::Controller]],
            one_way: true
        }
    );
    assert_eq!(faults[3].action, Action::ElectPreferred { of: "orders-0".into() });
    let texts: Vec<_> = faults.iter().map(|fault| fault.text.1.as_str()).collect();
    assert_eq!(
        texts,
        [
            "leader(orders-0)",
            "fault(1) -> follower(orders-0), controller",
            "broker(1) <-> client(producer-1) by 500ms",
            "orders-0"
        ]
    );
    assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [10, 17, 23, 31]);
}

#[test]
fn expectations_apply_to_the_variants_that_they_select() {
    let expect =
        "[expect]\n\"*\" = { sent = 500 }\n\"acks=1\" = { lost-write = \"> 0\" }\n\"acks=-1\" = { unseen = 0 }\n";
    let scenario = read(&[TOPIC, PRODUCE, expect]);
    let metrics: Vec<Vec<&str>> = scenario
        .variants
        .iter()
        .map(|variant| variant.expect.iter().map(|expectation| expectation.metric.as_str()).collect())
        .collect();
    assert_eq!(metrics, [vec!["sent"], vec!["sent", "lost-write"], vec!["sent", "unseen"]]);
    let lost = &scenario.variants[1].expect[1];
    assert_eq!((lost.compare, lost.value), (Comparison::Gt, 0));
}

#[test]
fn compatible_expectations_of_one_metric_all_apply() {
    let expect = "[expect]\n\"*\" = { acked = \"> 10\" }\n\"acks=1\" = { acked = \"<= 11\" }\n";
    assert_eq!(read(&[TOPIC, PRODUCE, expect]).variants[1].expect.len(), 2);
}

#[test]
fn each_action_and_each_target_is_accepted() {
    let racks = "[cluster]\nracks = [\"a\", \"b\", \"c\"]\n";
    let targets = [
        "broker(1)",
        "brokers",
        "leader(orders-0)",
        "follower(orders-0)",
        "isr(orders-0)",
        "controller",
        "rack(a)",
        "client(producer-1)",
        "fault(1)",
    ];
    for target in targets {
        assert!(TARGETS.iter().any(|name| target.starts_with(name)));
        let fault = format!(
            "[[fault]]\nat = \"1s\"\ndo = \"crash\"\ntarget = \"broker(2)\"\n[[fault]]\nat = \"2s\"\ndo = \"isolate\"\ntarget = \"{target}\"\n"
        );
        read(&[racks, TOPIC, PRODUCE, &fault]);
    }
    for action in ACTIONS {
        let (needed, optional) = keys_of(action).expect("every action has its keys");
        // All keys that it can have, but one of the two ends of a cycle, and of the two ways to say what rots.
        let is_one_of_two = |key: &str| (key == "for" && optional.contains(&"count")) || key == "byte";
        let keys = needed.iter().chain(optional).filter(|key| !is_one_of_two(key));
        let value = |key: &str| match key {
            "target" if TOPIC_ACTIONS.contains(action) => "\"orders\"",
            "target" if *action == "bit-rot" => "'file(1, \"orders-0/*.log\")'",
            "target" if DISK_ACTIONS.contains(action) => "\"disk(leader(orders-0))\"",
            "target" | "from" => "\"broker(1)\"",
            "to" => "\"broker(2)\"",
            "for" | "by" | "jitter" | "period" => "\"1s\"",
            "groups" => "[[\"broker(1)\"], [\"broker(2)\"]]",
            "one-way" | "both-ways" => "true",
            "bandwidth" => "\"1MB/s\"",
            "loss" | "duty" => "\"10%\"",
            "count" => "2",
            "request" => "\"Fetch\"",
            "direction" => "\"response\"",
            "drift" => "\"-50ppm\"",
            "pages" | "entries" => "\"subset\"",
            "free-bytes" | "bit" | "before-offset" => "3",
            "segment" => "\"sealed\"",
            "batch" => "\"first\"",
            "field" => "\"records\"",
            "config" => "{ \"min.insync.replicas\" = 2 }",
            other => panic!("write a value for `{other}`"),
        };
        let rest: String = keys.map(|key| format!("{key} = {}\n", value(key))).collect();
        let fault = format!("[[fault]]\nat = \"1s\"\ndo = \"{action}\"\n{rest}");
        assert_eq!(read(&[TOPIC, PRODUCE, &fault]).variants[0].faults[0].text.0, *action);
    }
}

#[test]
fn faults_of_links_messages_processes_and_clocks_read_as_documented() {
    let faults = r#"
[[fault]]
at = "1s"
do = "delay"
from = "rack(a)"
to = "machines"
by = "5ms"
jitter = "2ms"
[[fault]]
at = "1s"
do = "flap"
from = "broker(1)"
to = "brokers"
period = "2s"
duty = "25%"
count = 3
[[fault]]
at = "1s"
do = "delay-message"
request = "AlterPartition"
direction = "response"
to = "leader(orders-0)"
count = 1
by = "8s"
[[fault]]
at = "1s"
do = "clock-step"
target = "client(producer-1)"
by = "-10m"
[[fault]]
at = "1s"
do = "restart"
target = "broker(1)"
config = { "replica.lag.time.max.ms" = 1000 }
"#;
    let scenario = read(&["[cluster]\nracks = [\"a\", \"a\", \"b\"]\n", TOPIC, PRODUCE, faults]);
    let [delay, flap, late, step, restart] = scenario.variants[0].faults.as_slice() else { panic!("five faults") };
    let ms = Duration::from_millis;
    let links = |from, to| Links { from, to, both_ways: false };
    let rack = links(Target::Rack("a".into()), Target::Machines);
    assert_eq!(delay.action, Action::Delay { links: rack, by: ms(5), jitter: ms(2) });
    let cycle = Cycle { period: ms(2_000), duty: Ppm(250_000), count: Some(3) };
    assert_eq!(flap.action, Action::Flap { links: links(Target::Broker(1), Target::Brokers), cycle });
    let messages = Messages {
        request: ("AlterPartition".into(), 56),
        direction: Direction::Response,
        from: None,
        to: Some(Target::Leader("orders-0".into())),
        count: Some(1),
    };
    assert_eq!(late.action, Action::DelayMessage { messages, by: ms(8_000) });
    assert_eq!(step.action, Action::ClockStep { by_ns: -600_000_000_000 });
    let config = [("replica.lag.time.max.ms".to_owned(), "1000".to_owned())].into();
    assert_eq!(restart.action, Action::Restart { config });
    let texts: Vec<_> = scenario.variants[0].faults.iter().map(|fault| fault.text.1.as_str()).collect();
    assert_eq!(
        texts,
        [
            "rack(a) -> machines by 5ms +2ms",
            "broker(1) -> brokers 500ms of 2s x3",
            "AlterPartition response anyone -> leader(orders-0) x1 by 8s",
            "client(producer-1) by -10m",
            "broker(1) replica.lag.time.max.ms=1000",
        ]
    );
}

#[test]
fn links_clocks_and_racks_are_set_before_anything_happens() {
    let cluster = r#"
[cluster]
latency = "exponential(0.2ms, 1ms)"
bandwidth = "1Gbit/s"
event-cost = "20us"
racks = ["a", "b", "b"]
rack-aware = false
[[link]]
from = "rack(b)"
to = "client(producer-1)"
both-ways = true
latency = "40ms"
[[clock]]
target = "controller"
offset = "-2s"
drift = "200ppm"
"#;
    let scenario = read(&[cluster, TOPIC, PRODUCE]);
    let cluster = &scenario.variants[0].cluster;
    let (min, mean) = (Duration::from_micros(200), Duration::from_millis(1));
    assert_eq!(cluster.link.latency, Latency::Exponential { min, mean });
    assert_eq!((cluster.link.bandwidth, cluster.event_cost), (Some(125_000_000), Duration::from_micros(20)));
    assert_eq!((cluster.racks.join(""), cluster.rack_aware), ("abb".to_owned(), false));
    let links = Links { from: Target::Rack("b".into()), to: Target::Client("producer-1".into()), both_ways: true };
    let latency = Some(Latency::Fixed(Duration::from_millis(40)));
    assert_eq!(cluster.links, [LinkSetting { links, latency, jitter: None, bandwidth: None, loss: None }]);
    let clock = ClockSetting { target: Target::Controller, offset_ns: -2_000_000_000, drift_ppm: 200 };
    assert_eq!(cluster.clocks, [clock]);
}

#[test]
fn a_line_for_editors_may_come_before_the_claim() {
    let text = format!("#:schema ../schema.json\n# A claim.\n{TOPIC}{PRODUCE}");
    assert_eq!(parse("test", "test.toml", &text).map(|s| s.title).ok().as_deref(), Some("A claim."));
}

#[test]
fn every_shipped_scenario_is_a_claim_that_can_be_run() {
    let files = find_files(&[PathBuf::from("scenarios")]).expect("scenarios are shipped");
    assert!(files.len() >= 9, "{files:?}");
    for file in files {
        let scenario = load(&file).unwrap_or_else(|error| panic!("{}", error.render(false, 120)));
        assert!(!scenario.variants.is_empty(), "{}", scenario.name);
        assert!(scenario.variants.iter().any(|variant| !variant.expect.is_empty()), "{} claims nothing", scenario.name);
        assert!(scenario.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    }
}

/// The rows of the tables below the heading that begins with `section`, down to the next heading of its depth, as cells.
fn rows_of_the_reference(section: &str) -> Vec<Vec<String>> {
    let reference = std::fs::read_to_string("docs/scenario-reference.md").expect("the reference is shipped");
    let depth = |line: &str| line.bytes().take_while(|byte| *byte == b'#').count();
    let is_meant = |line: &&str| depth(line) > 0 && line.trim_start_matches(['#', ' ']).starts_with(section);
    let mut lines = reference.lines().skip_while(|line| !is_meant(line));
    let own = depth(lines.next().unwrap_or_else(|| panic!("the reference has no section {section}")));
    let lines: Vec<&str> = lines.take_while(|line| !(1..=own).contains(&depth(line))).collect();
    let is_head = |at: usize| lines.get(at + 1).is_some_and(|below| below.starts_with("|---"));
    let rows = (0..lines.len()).filter(|at| lines[*at].starts_with("| ") && !is_head(*at)).map(|at| lines[at]);
    rows.map(|row| row.trim_matches(['|', ' ']).split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The words of a cell in backticks that a comma separates.
fn listed(cell: &str) -> Vec<&str> {
    cell.split(", ").filter_map(|word| word.strip_prefix('`')?.strip_suffix('`')).collect()
}

/// The one row whose first cell lists `word`.
fn row_of<'a>(rows: &'a [Vec<String>], word: &str) -> &'a [String] {
    let mut own = rows.iter().filter(|row| listed(&row[0]).contains(&word));
    let row = own.next().unwrap_or_else(|| panic!("the reference has no row for `{word}`"));
    assert_eq!(own.next(), None, "the reference has two rows for `{word}`");
    row
}

#[test]
fn the_reference_has_a_row_for_every_key_of_every_table() {
    for (section, keys) in [
        ("Top level", TOP_KEYS),
        ("`[cluster]`", CLUSTER_KEYS),
        ("`[[link]]`", LINK_KEYS),
        ("`[[clock]]`", CLOCK_KEYS),
        ("`[[topic]]`", TOPIC_KEYS),
        ("`[[fault]]`", FAULT_KEYS),
    ] {
        let rows = rows_of_the_reference(section);
        keys.iter().for_each(|key| assert!(!row_of(&rows, key).last().expect("cells").is_empty(), "{section}: {key}"));
    }
    let rows = rows_of_the_reference("`[[workload]]`");
    for key in PRODUCE_KEYS.iter().chain(CONSUME_KEYS) {
        let kind = match (PRODUCE_KEYS.contains(key), CONSUME_KEYS.contains(key), MEMBER_KEYS.contains(key)) {
            _ if *key == "kind" => "",
            (true, true, _) => "both",
            (true, false, _) => "produce",
            (false, _, true) => "member",
            (false, _, false) => "consume",
        };
        assert_eq!(row_of(&rows, key)[1], kind, "{key}");
    }
    let rows = rows_of_the_reference("`[expect]`");
    for metric in METRICS {
        let kind = match metric.kind {
            MetricKind::Anomaly => "anomaly",
            MetricKind::Violation => "violation",
            MetricKind::Count => "count",
            MetricKind::Millis => "time",
        };
        assert_eq!(row_of(&rows, metric.name)[1], kind, "{}", metric.name);
    }
}

#[test]
fn the_reference_has_a_row_for_every_action_with_its_keys() {
    let rows = rows_of_the_reference("`[[fault]]`");
    for action in ACTIONS {
        let row = row_of(&rows, action);
        let (needed, optional) = keys_of(action).expect("every action has keys");
        assert_eq!(listed(&row[1]), [needed, optional].concat(), "{action}: the column With");
        assert!(!row[2].is_empty(), "{action}");
    }
    // The rows of actions are those of three cells.
    let actions = rows.iter().filter(|row| row.len() == 3).flat_map(|row| listed(&row[0]));
    let unknown: Vec<&str> = actions.filter(|word| !ACTIONS.contains(word)).collect();
    assert_eq!(unknown, Vec::<&str>::new(), "no such action");
}

#[test]
fn the_reference_tells_the_words_that_a_key_takes() {
    fn names<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
        table.iter().map(|(name, _)| *name).collect()
    }
    let faults = rows_of_the_reference("`[[fault]]`");
    let rot = [names(disk::BATCHES), names(disk::BatchField::NAMES)].concat();
    for (key, words) in [("pages", names(disk::SURVIVALS)), ("segment", names(disk::SEGMENTS)), ("field", rot)] {
        let meaning = row_of(&faults, key).last().expect("cells");
        let mut told: Vec<&str> = meaning.split('"').skip(1).step_by(2).collect();
        told.sort_unstable();
        told.dedup();
        let mut words = words;
        words.sort_unstable();
        assert_eq!(told, words, "{key}");
    }
    assert_eq!(row_of(&faults, "pages"), row_of(&faults, "entries"));
    assert_eq!(row_of(&faults, "field"), row_of(&faults, "batch"));
    let direction = row_of(&faults, "direction").last().expect("cells");
    assert!(DIRECTIONS.iter().all(|word| direction.contains(&format!("`{word}`"))));
    let workloads = rows_of_the_reference("`[[workload]]`");
    let kind = row_of(&workloads, "kind").last().expect("cells");
    assert!(WORKLOAD_KINDS.iter().all(|word| kind.contains(&format!("`{word}`"))));
    for (key, words) in [
        ("format", names(VALUE_FORMATS)),
        ("commit", names(COMMIT_STYLES)),
        ("end", names(ENDINGS)),
        ("seek-to", names(SEEKS)),
        ("on-poison", names(POISON_REACTIONS)),
    ] {
        let meaning = row_of(&workloads, key).last().expect("cells");
        let missing: Vec<&&str> = words.iter().filter(|word| !meaning.contains(&format!("\"{word}\""))).collect();
        assert!(missing.is_empty(), "{key}: {missing:?}");
    }
}

#[test]
fn the_reference_has_a_row_for_every_target_and_condition_and_names_every_unit() {
    for (section, words) in
        [("Targets", TARGETS), ("Targets", DISK_TARGETS), ("Conditions", CONDITIONS), ("`[cluster]`", DISTRIBUTIONS)]
    {
        let rows = rows_of_the_reference(section);
        let forms = |word: &str| [format!("`{word}`"), format!("`{word}("), format!("\"{word}(")];
        let has_row = |word: &&&str| rows.iter().any(|row| forms(word).iter().any(|form| row[0].starts_with(form)));
        let missing: Vec<&&str> = words.iter().filter(|word| !has_row(word)).collect();
        assert!(missing.is_empty(), "{section}: {missing:?}");
    }
    let reference = std::fs::read_to_string("docs/scenario-reference.md").expect("the reference is shipped");
    let units = UNITS.iter().copied().chain(BANDWIDTH_UNITS.iter().map(|(unit, _)| *unit));
    let missing: Vec<&str> = units.filter(|unit| !reference.contains(&format!("`{unit}`"))).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

#[test]
fn the_reference_lists_every_defect() {
    let reference = std::fs::read_to_string("docs/scenario-reference.md").expect("the reference is shipped");
    for defect in Defect::ALL {
        let row = format!("| `{defect}` | {} |", defect.sentence());
        assert!(reference.contains(&row), "the reference lacks the row: {row}");
    }
}

#[test]
fn the_reference_names_every_configuration_key_with_its_default() {
    let reference = std::fs::read_to_string("docs/scenario-reference.md").expect("the reference is shipped");
    for scope in Scope::ALL {
        for key in config::modelled(scope) {
            let row = match key.alias {
                Some(alias) => format!("| `{}`, `{alias}` | {} |", key.name, key.default),
                None => format!("| `{}` | {} |", key.name, key.default),
            };
            assert!(reference.contains(&row), "the reference lacks the row: {row}");
        }
    }
}

#[test]
fn files_are_found_below_directories_sorted_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir_all(path("deep/er")).unwrap();
    for name in ["b.toml", "a.toml", "deep/er/c.toml", "notes.md"] {
        std::fs::write(path(name), "").unwrap();
    }
    let all = [path("a.toml"), path("b.toml"), path("deep/er/c.toml")];
    assert_eq!(find_files(&[directory.path().to_owned(), path("a.toml")]).unwrap(), all);
    assert_eq!(find_files(&[path("notes.md")]).unwrap(), [path("notes.md")]);
}

#[test]
fn a_missing_path_and_an_empty_directory_are_errors() {
    let directory = tempfile::tempdir().unwrap();
    let missing = find_files(&[directory.path().join("nowhere")]).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    let empty = find_files(&[directory.path().to_owned()]).unwrap_err();
    assert!(empty.to_string().contains("no scenario"), "{empty}");
}

/// A file to damage: every section, with words of more than one byte.
const WHOLE: &str = r#"# Größe zählt nicht.
seed = 7
duration = "30s"
[cluster]
brokers = 3
latency = "0.2ms..0.5ms"
[cluster.config]
min.insync.replicas = 2
[[topic]]
name = "orders"
replication-factor = 3
config = { "flush.messages" = 1 }
[matrix]
acks = ["1", "all"]
[[workload]]
kind = "produce"
topic = "orders"
records = 500
config = { "linger.ms" = 0 }
[[fault]]
when = "isr(orders-0).size == 1"
do = "partition"
groups = [["leader(orders-0)"], ["follower(orders-0, 1)", "controller"]]
[[fault]]
at = "2s"
do = "crash"
target = "fault(1)"
[expect]
"acks=1" = { lost-write = "> 0" }
"#;

proptest::proptest! {
    #[test]
    fn no_damage_to_a_file_is_beyond_an_error(cut in 0..WHOLE.len(), length in 0_usize..40, patch in "[ -~é\n]{0,6}") {
        let from = WHOLE.floor_char_boundary(cut);
        let to = WHOLE.floor_char_boundary((from + length).min(WHOLE.len())).max(from);
        let text = format!("{}{patch}{}", &WHOLE[..from], &WHOLE[to..]);
        if let Err(error) = parse("test", "test.toml", &text) {
            assert!(!error.mistakes.is_empty());
            for mistake in &error.mistakes {
                assert!(error.render(false, 80).contains(mistake.message.split_whitespace().next().unwrap()));
            }
        }
    }
}

#[test]
fn every_fault_is_used_by_a_scenario() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files =
        std::fs::read_dir(directory).expect("the scenarios are there").map(|entry| entry.expect("readable").path());
    let texts: Vec<String> =
        files.filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).expect("a text")).collect();
    let is_used = |action: &str| texts.iter().any(|text| text.contains(&format!("do = \"{action}\"")));
    let unused: Vec<&&str> = ACTIONS.iter().filter(|action| !is_used(action)).collect();
    assert!(unused.is_empty() && !is_used("no-such-fault"), "{unused:?}");
}
