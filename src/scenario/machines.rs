//! What the cluster's machines and links are like before anything happens to them: racks, links, clocks.

use std::time::Duration;

use super::diagnostics::Mistakes;
use super::draft::{Draft, element_text};
use super::expression;
use super::faults::{self, Names};
use super::model::{ClockSetting, LinkSetting, Links, Target};
use super::quantity;
use super::table::{Section, Spanned, Text};
use super::vocabulary::{CLOCK_KEYS, LINK_KEYS};
use crate::world::sim::{Latency, LinkModel, Ppm};

/// The keys that `[cluster]` and `[[link]]` share.
#[derive(Default)]
pub(super) struct LinkKeys {
    latency: Option<Latency>,
    jitter: Option<Duration>,
    bandwidth: Option<u64>,
    loss: Option<Ppm>,
}

/// Reads them; what is wrong is noted and left out.
pub(super) fn link_keys(section: &Section<'_>, mistakes: &mut Mistakes) -> LinkKeys {
    let latency = section.text("latency", mistakes).and_then(|text| text.read(quantity::latency, mistakes));
    let jitter = section.duration("jitter", mistakes);
    let bandwidth = section.text("bandwidth", mistakes).and_then(|text| text.read(quantity::bandwidth, mistakes));
    let loss = section.text("loss", mistakes).and_then(|text| faults::loss(&text, mistakes));
    LinkKeys {
        latency: latency.map(|latency| latency.value),
        jitter: jitter.map(|jitter| jitter.value),
        bandwidth: bandwidth.map(|bandwidth| bandwidth.value),
        loss: loss.map(|loss| loss.value),
    }
}

impl LinkKeys {
    /// What every link is like.
    pub(super) fn model(&self) -> LinkModel {
        let default = LinkModel::default();
        LinkModel {
            latency: self.latency.unwrap_or(default.latency),
            jitter: self.jitter.unwrap_or(default.jitter),
            bandwidth: self.bandwidth,
            loss: self.loss.unwrap_or(default.loss),
        }
    }
}

/// The rack of each broker.
pub(super) fn racks(section: &Section<'_>, brokers: u32, mistakes: &mut Mistakes) -> Vec<String> {
    if !section.has("racks") {
        return Vec::new();
    }
    let Some(values) = section.array("racks", "an array of names", mistakes) else { return Vec::new() };
    let texts: Option<Vec<Text>> =
        values.iter().map(|value| element_text(value, "a rack", section.file(), mistakes)).collect();
    let Some(texts) = texts else { return Vec::new() };
    for text in texts.iter().filter(|text| text.value.is_empty() || text.value.contains(['(', ')', ','])) {
        mistakes.add(&text.span, format!("`{}` is not a rack's name", text.value)).help("it is written `rack(name)`");
    }
    if texts.len() != brokers as usize {
        let message = format!("{} racks for {brokers} brokers: each broker needs its own entry", texts.len());
        let help = "broker 1 is in the first, and several brokers may be in the same";
        mistakes.add(&section.span_of("racks"), message).help(help);
    }
    texts.into_iter().map(|text| text.value).collect()
}

/// `[[link]]` and `[[clock]]`; their targets name machines of the draft.
pub(super) fn read(root: &Section<'_>, draft: &mut Draft, mistakes: &mut Mistakes) {
    let links = root.tables("link", mistakes);
    draft.links = links.iter().filter_map(|section| link(section, draft, mistakes)).collect();
    let mut clocks: Vec<ClockSetting> = Vec::new();
    for section in &root.tables("clock", mistakes) {
        let Some(clock) = clock(section, draft, mistakes) else { continue };
        if clocks.iter().any(|known| known.target == clock.target) {
            let message = format!("the clock of `{}` is set twice", clock.target);
            mistakes.add(&section.span_of("target"), message);
            continue;
        }
        clocks.push(clock);
    }
    draft.clocks = clocks;
}

fn link(section: &Section<'_>, draft: &Draft, mistakes: &mut Mistakes) -> Option<LinkSetting> {
    section.allow(LINK_KEYS, mistakes);
    let from = machine(section, "from", "from = \"broker(1)\"", draft, mistakes);
    let to = machine(section, "to", "to = \"broker(2)\"", draft, mistakes);
    let both_ways = section.boolean("both-ways", mistakes).is_some_and(|both| both.value);
    let before = mistakes.len();
    let LinkKeys { latency, jitter, bandwidth, loss } = link_keys(section, mistakes);
    if mistakes.len() > before {
        return None;
    }
    if !["latency", "jitter", "bandwidth", "loss"].iter().any(|key| section.has(key)) {
        mistakes.add(&section.span, "this link is like every other").help("add latency, jitter, bandwidth or loss");
        return None;
    }
    let (from, to) = (from?, to?);
    if from.value == to.value && !from.value.may_be_several() {
        mistakes.add(&to.span, format!("`{}` is at both ends of the link", to.value));
        return None;
    }
    let links = Links { from: from.value, to: to.value, both_ways };
    Some(LinkSetting { links, latency, jitter, bandwidth, loss })
}

fn clock(section: &Section<'_>, draft: &Draft, mistakes: &mut Mistakes) -> Option<ClockSetting> {
    section.allow(CLOCK_KEYS, mistakes);
    let target = machine(section, "target", "target = \"broker(1)\"", draft, mistakes);
    if !section.has("offset") && !section.has("drift") {
        mistakes.add(&section.span, "this clock is right").help("add `offset = \"-2s\"` or `drift = \"200ppm\"`");
        return None;
    }
    let quantity = |key: &str, read: fn(&str) -> Result<i64, expression::Slip>, mistakes: &mut Mistakes| {
        section.optional(|s, key, m| s.text(key, m)?.read(read, m), key, mistakes)
    };
    let (offset, drift) = (quantity("offset", quantity::shift, mistakes), quantity("drift", quantity::drift, mistakes));
    let value = |quantity: Option<Spanned<i64>>| quantity.map_or(0, |quantity| quantity.value);
    Some(ClockSetting { offset_ns: value(offset?), drift_ppm: value(drift?), target: target?.value })
}

/// A target that means the same machines from beginning to end.
fn machine(
    section: &Section<'_>,
    key: &str,
    example: &str,
    draft: &Draft,
    mistakes: &mut Mistakes,
) -> Option<Spanned<Target>> {
    if !section.has(key) {
        section.missing(key, example, mistakes);
        return None;
    }
    let target = section.text(key, mistakes)?.read(expression::target, mistakes)?;
    match &target.value {
        Target::Broker(_)
        | Target::Brokers
        | Target::Controller
        | Target::Client(_)
        | Target::Rack(_)
        | Target::Machines => {}
        Target::Leader(_) | Target::Follower(..) | Target::Isr(_) | Target::Coordinator(_) | Target::SameAs(_) => {
            mistakes
                .add(&target.span, format!("`{}` is not always the same machine", target.value))
                .help("broker(1), brokers, controller, client(producer-1), rack(a) and machines are");
            return None;
        }
    }
    if let Err((message, help)) = Names::new(draft, 0).target(&target.value, 0) {
        let found = mistakes.add(&target.span, message);
        if let Some(help) = help {
            found.help(help);
        }
        return None;
    }
    Some(target)
}
