//! Faults of links and of messages on them.

use std::time::Duration;

use kafka_protocol::messages::ApiKey;

use super::super::diagnostics::Mistakes;
use super::super::model::{Action, Links, Messages};
use super::super::quantity;
use super::super::table::{Section, Spanned, Text};
use super::super::vocabulary::DIRECTIONS;
use super::{Names, Read, checked_target, cycle, target};
use crate::world::sim::{Direction, Ppm};

/// More would be a cut link.
const LOSS_MAX: Ppm = Ppm(900_000);

/// Kafka's names of requests, in the order of their keys.
pub(in super::super) fn requests() -> Vec<(String, i16)> {
    ApiKey::iter().map(|key| (format!("{key:?}"), key as i16)).collect()
}

/// `from`, `to` and `both-ways`, with the text that a report shows.
fn links(
    section: &Section<'_>,
    what: &Text,
    own: usize,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<(Links, String)> {
    let from = target(section, "from", what, own, names, mistakes);
    let to = target(section, "to", what, own, names, mistakes);
    let both_ways = section.boolean("both-ways", mistakes).is_some_and(|both| both.value);
    let (from, to) = (from?, to?);
    if from.value == to.value && !from.value.may_be_several() {
        mistakes.add(&to.span, format!("`{}` is at both ends of the link", to.value));
        return None;
    }
    let arrow = if both_ways { "<->" } else { "->" };
    let text = format!("{} {arrow} {}", from.value, to.value);
    Some((Links { from: from.value, to: to.value, both_ways }, text))
}

pub(super) fn delay(
    section: &Section<'_>,
    what: &Text,
    own: usize,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<Read> {
    let links = links(section, what, own, names, mistakes);
    if !section.has("by") {
        section.missing("by", "by = \"500ms\"", mistakes);
    }
    let by = section.positive_duration("by", mistakes);
    let jitter = section.optional(Section::duration, "jitter", mistakes);
    let ((links, text), by, jitter) = (links?, by?.value, jitter?.map_or(Duration::ZERO, |jitter| jitter.value));
    let text = if jitter.is_zero() { format!("{text} by {by:?}") } else { format!("{text} by {by:?} +{jitter:?}") };
    Some((Action::Delay { links, by, jitter }, None, text))
}

pub(super) fn throttle(
    section: &Section<'_>,
    what: &Text,
    own: usize,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<Read> {
    let links = links(section, what, own, names, mistakes);
    let (bandwidth, written) = needed_bandwidth(section, mistakes)?;
    let (links, text) = links?;
    Some((Action::Throttle { links, bandwidth }, None, format!("{text} to {written}")))
}

/// `bandwidth`, and how it is written.
pub(super) fn needed_bandwidth(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<(u64, String)> {
    if !section.has("bandwidth") {
        section.missing("bandwidth", "bandwidth = \"1Mbit/s\"", mistakes);
    }
    let text = section.text("bandwidth", mistakes)?;
    let bandwidth = text.read(quantity::bandwidth, mistakes)?.value;
    Some((bandwidth, text.value))
}

pub(super) fn packet_loss(
    section: &Section<'_>,
    what: &Text,
    own: usize,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<Read> {
    let links = links(section, what, own, names, mistakes);
    if !section.has("loss") {
        section.missing("loss", "loss = \"5%\"", mistakes);
    }
    let text = section.text("loss", mistakes)?;
    let loss = loss(&text, mistakes)?;
    if loss.value == Ppm(0) {
        mistakes.add(&loss.span, "`loss` must be more than nothing");
        return None;
    }
    let (links, ends) = links?;
    Some((Action::PacketLoss { links, loss: loss.value }, None, format!("{ends} of {}", text.value)))
}

/// A share of segments that can be lost without cutting the link.
pub(in super::super) fn loss(text: &Text, mistakes: &mut Mistakes) -> Option<Spanned<Ppm>> {
    let loss = text.read(quantity::share, mistakes)?;
    if loss.value > LOSS_MAX {
        let help = "a link that loses everything is cut: `partition` or `isolate`";
        mistakes.add(&loss.span, "a link can lose 90% at most").help(help);
        return None;
    }
    Some(loss)
}

pub(super) fn flap(
    section: &Section<'_>,
    what: &Text,
    own: usize,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<Read> {
    let links = links(section, what, own, names, mistakes);
    let (cycle, rhythm) = cycle(section, mistakes)?;
    let (links, text) = links?;
    Some((Action::Flap { links, cycle }, None, format!("{text} {rhythm}")))
}

pub(super) fn delay_message(
    section: &Section<'_>,
    own: usize,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<Read> {
    let messages = messages(section, own, names, mistakes);
    if !section.has("by") {
        section.missing("by", "by = \"8s\"", mistakes);
    }
    let by = section.positive_duration("by", mistakes)?.value;
    let (messages, text) = messages?;
    Some((Action::DelayMessage { messages, by }, None, format!("{text} by {by:?}")))
}

pub(super) fn drop_message(
    section: &Section<'_>,
    own: usize,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<Read> {
    let (messages, text) = messages(section, own, names, mistakes)?;
    Some((Action::DropMessage { messages }, None, text))
}

/// Which messages, with the text that a report shows: `Fetch request broker(2) -> broker(1) x1`.
fn messages(
    section: &Section<'_>,
    own: usize,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<(Messages, String)> {
    let request = request(section, mistakes);
    let direction = direction(section, mistakes);
    let count = section.optional(|s, name, m| s.integer(name, 1..=i64::from(u32::MAX), m), "count", mistakes);
    let end = |key: &str, mistakes: &mut Mistakes| {
        section.optional(|s, key, m| checked_target(&s.text(key, m)?, own, names, m), key, mistakes)
    };
    let (from, to) = (end("from", mistakes), end("to", mistakes));
    let (request, (direction, direction_name), count) = (request?, direction?, count?);
    let (from, to) = (from?.map(|from| from.value), to?.map(|to| to.value));
    let name = |target: &Option<_>| target.as_ref().map_or("anyone".to_owned(), ToString::to_string);
    let mut text = format!("{} {direction_name} {} -> {}", request.0, name(&from), name(&to));
    let count = count.map(|count| count.value as u32);
    if let Some(count) = count {
        text += &format!(" x{count}");
    }
    Some((Messages { request, direction, from, to, count }, text))
}

fn request(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<(String, i16)> {
    if !section.has("request") {
        section.missing("request", "request = \"Fetch\"", mistakes);
    }
    let text = section.text("request", mistakes)?;
    let known = requests();
    let found = known.iter().find(|(name, _)| *name == text.value).cloned();
    if found.is_none() {
        let found = mistakes.add(&text.span, format!("Kafka has no request `{}`", text.value));
        match crate::config::nearest(&text.value, known.iter().map(|(name, _)| name.as_str())) {
            Some(near) => found.help(format!("did you mean `{near}`?")),
            None => found.help("write its name as in Kafka's protocol, for example `Produce` or `AlterPartition`"),
        };
    }
    found
}

fn direction(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<(Direction, &'static str)> {
    if !section.has("direction") {
        section.missing("direction", "direction = \"response\"", mistakes);
    }
    let text = section.text("direction", mistakes)?;
    match text.value.as_str() {
        "request" => Some((Direction::Request, "request")),
        "response" => Some((Direction::Response, "response")),
        other => {
            mistakes
                .add(&text.span, format!("`direction` cannot be `{other}`"))
                .suggest(other, DIRECTIONS.iter().copied());
            None
        }
    }
}
