//! Members that subscribe by regular expression (KIP-848, `SubscribedTopicRegex`): the coordinator resolves it, once for
//! all members that have the same, and writes down which topics it stands for. What it resolves moves the group epoch, as
//! another subscription would.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::protocol::StrBytes;
use regex::Regex;

use super::{ConsumerGroup, Member};
use crate::coordinator::record::{ConsumerRecord, Record, ResolvedRegex, TopicMetadata};
use crate::coordinator::request::Refusal;
use crate::coordinator::shard::Moment;
use crate::protocol::ErrorCode;

/// `REGEX_BATCH_REFRESH_MIN_INTERVAL_MS`: between two resolutions of a group.
const REFRESH_MIN_INTERVAL_MS: i64 = 10_000;

/// What a member's subscription by regular expression means for its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::coordinator) struct RegexUpdate {
    /// The expression is another one, and already resolved.
    pub has_changed: bool,
    /// The expressions of the group are to be resolved.
    pub refreshes: bool,
}

/// The expression of a member that has one: an empty one is none.
fn regex_of(member: &Member) -> Option<&StrBytes> {
    member.metadata.subscribed_regex.as_ref().filter(|regex| !regex.is_empty())
}

/// Syntax of RE2, as Kafka's RE2J.
fn compile(regex: &str) -> Result<Regex, regex::Error> {
    Regex::new(regex)?;
    // `Matcher.matches`: the whole name.
    Regex::new(&format!("^(?:{regex})$"))
}

/// `throwIfRegularExpressionIsInvalid`
fn validate(regex: &StrBytes) -> Result<(), Refusal> {
    match compile(regex) {
        Ok(_) => Ok(()),
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default();
            let message = format!("SubscribedTopicRegex `{regex}` is not a valid regular expression: {reason}.");
            Err(Refusal::new(ErrorCode::InvalidRegularExpression, &message))
        }
    }
}

/// What regular expressions stand for. One that was not resolved yet is not there.
pub(in crate::coordinator) type Regexes = BTreeMap<StrBytes, ResolvedRegex>;

/// The topics that a member subscribes to, as far as its expression is resolved.
pub(super) fn topics_of<'a>(member: &'a Member, regexes: &'a Regexes) -> impl Iterator<Item = &'a StrBytes> {
    let resolved = regex_of(member).and_then(|regex| regexes.get(regex));
    member.metadata.subscribed_topics.iter().chain(resolved.into_iter().flat_map(|resolved| &resolved.topics))
}

/// The topics of a set of members that exist (`computeSubscriptionMetadata`).
pub(super) fn subscription_metadata<'a>(
    members: impl Iterator<Item = &'a Member>,
    regexes: &'a Regexes,
    moment: Moment<'_>,
) -> BTreeMap<StrBytes, TopicMetadata> {
    let names: BTreeSet<&StrBytes> = members.flat_map(|member| topics_of(member, regexes)).collect();
    names.into_iter().filter_map(|name| Some((name.clone(), moment.topics.get(name)?))).collect()
}

impl ConsumerGroup {
    /// `maybeUpdateRegularExpressions`: the member was `before` and is `member` now, one of `members`.
    ///
    /// Errors: INVALID_REGULAR_EXPRESSION.
    pub fn update_regex(
        &self,
        moment: Moment<'_>,
        members: &[&Member],
        before: &Member,
        member: &Member,
        records: &mut Vec<Record>,
    ) -> Result<RegexUpdate, Refusal> {
        let (former, regex) = (regex_of(before), regex_of(member));
        let regexes: BTreeSet<&StrBytes> = members.iter().copied().filter_map(regex_of).collect();
        let mut update = RegexUpdate { has_changed: false, refreshes: false };
        if former != regex {
            if let Some(former) = former.filter(|former| !regexes.contains(former)) {
                records.extend(self.regex_tombstone(former));
            }
            if let Some(regex) = regex {
                update.has_changed = self.regexes.contains_key(regex);
                validate(regex)?;
            }
        }
        let last_refresh_ms = self.regexes.values().map(|resolved| resolved.timestamp_ms).max();
        let is_too_soon = last_refresh_ms.is_some_and(|last| moment.wall_ms <= last + REFRESH_MIN_INTERVAL_MS);
        let is_unresolved = regexes.iter().any(|regex| !self.regexes.contains_key(*regex));
        let version = self.regexes.values().map(|resolved| resolved.version).max().unwrap_or(0);
        let has_new_topics = !regexes.is_empty() && version < moment.topics.version();
        update.refreshes = !is_too_soon && (is_unresolved || has_new_topics);
        Ok(update)
    }

    /// The records of what the expressions of the members stand for now (`refreshRegularExpressions`,
    /// `handleRegularExpressionsResult`), and with them the group epoch if that is something else. Internal topics are
    /// topics like others.
    pub fn resolve_regexes(&self, moment: Moment<'_>) -> Vec<Record> {
        let (version, timestamp_ms) = (moment.topics.version(), moment.wall_ms);
        let mut regexes = Regexes::new();
        for regex in self.members.values().filter_map(regex_of) {
            if regexes.contains_key(regex) {
                continue;
            }
            // Members that were loaded may have been validated by another implementation.
            let Ok(compiled) = compile(regex) else { continue };
            let topics = moment.topics.names().filter(|name| compiled.is_match(name)).cloned().collect();
            regexes.insert(regex.clone(), ResolvedRegex { topics, version, timestamp_ms });
        }
        let has_other = |(regex, resolved): (&StrBytes, &ResolvedRegex)| match self.regexes.get(regex) {
            Some(known) => known.topics != resolved.topics,
            None => !resolved.topics.is_empty(),
        };
        let mut has_changed = regexes.iter().any(has_other);
        let topics = subscription_metadata(self.members.values(), &regexes, moment);
        let of_regex = |(regex, resolved): (StrBytes, ResolvedRegex)| {
            self.record(ConsumerRecord::RegularExpression { regex, value: Some(resolved) })
        };
        let mut records: Vec<Record> = regexes.into_iter().map(of_regex).collect();
        if topics != self.topics {
            has_changed = true;
            records.push(self.record(ConsumerRecord::PartitionMetadata(Some(topics))));
        }
        if has_changed {
            records.push(self.record(ConsumerRecord::Group(Some(self.epoch + 1))));
        }
        records
    }

    /// The tombstones of the expressions that nobody has any more once `members` are gone.
    pub fn regex_tombstones_without(&self, members: &[&StrBytes]) -> Vec<Record> {
        let others = self.members_with(None, members);
        let of_others: BTreeSet<&StrBytes> = others.into_iter().filter_map(regex_of).collect();
        let gone = self.regexes.keys().filter(|regex| !of_others.contains(regex));
        gone.filter_map(|regex| self.regex_tombstone(regex)).collect()
    }

    fn regex_tombstone(&self, regex: &StrBytes) -> Option<Record> {
        self.regexes
            .contains_key(regex)
            .then(|| self.record(ConsumerRecord::RegularExpression { regex: regex.clone(), value: None }))
    }
}
