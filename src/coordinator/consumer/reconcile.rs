//! One step of a member from what it has to what it is to have (`CurrentAssignmentBuilder`): it gives up first, and
//! gets nothing that another member has not given up.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::coordinator::record::{CurrentAssignment, MemberState, Partitions};
use crate::protocol::ErrorCode;

/// What a member is to have in the end.
#[derive(Clone, Copy)]
pub(in crate::coordinator) struct Target<'a> {
    pub epoch: i32,
    pub partitions: &'a Partitions,
}

/// The member's next state; the same one if it cannot go on. `owned` is what it says that it consumes, if it says so.
/// `is_taken`: whether any member, this one included, has been assigned a partition or has yet to give it up.
///
/// Errors: FENCED_MEMBER_EPOCH for a member in a state that we do not know, unless it owns nothing.
pub(in crate::coordinator) fn reconcile(
    current: &CurrentAssignment,
    target: Target<'_>,
    owned: Option<&Partitions>,
    is_taken: impl Fn(Uuid, i32) -> bool,
) -> Result<CurrentAssignment, ErrorCode> {
    let epoch = current.member_epoch;
    let from = match current.state {
        MemberState::Stable if epoch == target.epoch => return Ok(current.clone()),
        MemberState::Stable | MemberState::UnreleasedPartitions => epoch,
        MemberState::UnrevokedPartitions if owns_any(owned, &current.pending_revocation) => return Ok(current.clone()),
        MemberState::UnrevokedPartitions => epoch + 1,
        MemberState::Unknown if owned.is_none_or(|owned| !owned.is_empty()) => {
            return Err(ErrorCode::FencedMemberEpoch);
        }
        MemberState::Unknown => target.epoch,
    };
    Ok(next(current, from, target, owned, is_taken))
}

/// `ownsRevokedPartitions`: one that does not say what it owns may own everything.
fn owns_any(owned: Option<&Partitions>, partitions: &Partitions) -> bool {
    let Some(owned) = owned else { return true };
    owned.iter().any(|(topic, owned)| partitions.get(topic).is_some_and(|of_topic| !of_topic.is_disjoint(owned)))
}

/// `computeNextAssignment`
fn next(
    current: &CurrentAssignment,
    epoch: i32,
    target: Target<'_>,
    owned: Option<&Partitions>,
    is_taken: impl Fn(Uuid, i32) -> bool,
) -> CurrentAssignment {
    let (mut kept, mut revoked, mut free) = (Partitions::new(), Partitions::new(), Partitions::new());
    let mut waits = false;
    let nothing = BTreeSet::new();
    let topics: BTreeSet<&Uuid> = target.partitions.keys().chain(current.assigned.keys()).collect();
    for topic in topics {
        let wanted = target.partitions.get(topic).unwrap_or(&nothing);
        let assigned = current.assigned.get(topic).unwrap_or(&nothing);
        put(&mut kept, topic, assigned & wanted);
        put(&mut revoked, topic, assigned - wanted);
        let mut missing = wanted - assigned;
        let count = missing.len();
        missing.retain(|partition| !is_taken(*topic, *partition));
        waits |= missing.len() < count;
        put(&mut free, topic, missing);
    }
    let previous_member_epoch = current.member_epoch;
    if !revoked.is_empty() && owns_any(owned, &revoked) {
        // It stays in its epoch until it has let go.
        return CurrentAssignment {
            member_epoch: epoch,
            previous_member_epoch,
            state: MemberState::UnrevokedPartitions,
            assigned: kept,
            pending_revocation: revoked,
        };
    }
    for (topic, partitions) in free {
        kept.entry(topic).or_default().extend(partitions);
    }
    CurrentAssignment {
        member_epoch: target.epoch,
        previous_member_epoch,
        state: if waits { MemberState::UnreleasedPartitions } else { MemberState::Stable },
        assigned: kept,
        pending_revocation: Partitions::new(),
    }
}

fn put(partitions: &mut Partitions, topic: &Uuid, of_topic: BTreeSet<i32>) {
    if !of_topic.is_empty() {
        partitions.insert(*topic, of_topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: Uuid = Uuid::from_u128(1);

    fn of(partitions: &[i32]) -> Partitions {
        let mut all = Partitions::new();
        put(&mut all, &TOPIC, partitions.iter().copied().collect());
        all
    }

    fn stable(epoch: i32, assigned: &[i32]) -> CurrentAssignment {
        CurrentAssignment { member_epoch: epoch, assigned: of(assigned), ..CurrentAssignment::default() }
    }

    fn step(
        current: &CurrentAssignment,
        epoch: i32,
        target: &[i32],
        owned: Option<&[i32]>,
        taken: &[i32],
    ) -> CurrentAssignment {
        let (target, owned) = (of(target), owned.map(of));
        let target = Target { epoch, partitions: &target };
        reconcile(current, target, owned.as_ref(), |_, partition| taken.contains(&partition)).expect("a known state")
    }

    #[test]
    fn a_new_member_gets_what_is_free_and_waits_for_the_rest() {
        let joined = step(&CurrentAssignment::default(), 2, &[0, 1, 2], Some(&[]), &[1]);
        assert_eq!((joined.member_epoch, joined.state), (2, MemberState::UnreleasedPartitions));
        assert_eq!(joined.assigned, of(&[0, 2]));
        let released = step(&joined, 2, &[0, 1, 2], None, &[0, 2]);
        assert_eq!((released.member_epoch, released.state), (2, MemberState::Stable));
        assert_eq!(released.assigned, of(&[0, 1, 2]));
    }

    #[test]
    fn a_member_stays_in_its_epoch_until_it_owns_nothing_that_is_revoked() {
        let revoking = step(&stable(1, &[0, 1]), 2, &[0, 5], None, &[0, 1, 5]);
        assert_eq!((revoking.member_epoch, revoking.state), (1, MemberState::UnrevokedPartitions));
        assert_eq!((&revoking.assigned, &revoking.pending_revocation), (&of(&[0]), &of(&[1])));
        // Not told what it owns, or that it owns the partition still.
        assert_eq!(step(&revoking, 3, &[0, 5], None, &[0, 1, 5]), revoking);
        assert_eq!(step(&revoking, 3, &[0, 5], Some(&[0, 1]), &[0, 1, 5]), revoking);
        let revoked = step(&revoking, 3, &[0, 5], Some(&[0]), &[0, 1]);
        assert_eq!((revoked.member_epoch, revoked.state), (3, MemberState::Stable));
        assert_eq!(revoked.assigned, of(&[0, 5]));
        assert!(revoked.pending_revocation.is_empty());
    }

    #[test]
    fn a_further_revocation_comes_before_anything_new() {
        let revoking = CurrentAssignment {
            state: MemberState::UnrevokedPartitions,
            pending_revocation: of(&[2]),
            ..stable(4, &[0, 1])
        };
        let next = step(&revoking, 6, &[0, 7], Some(&[0, 1]), &[0, 1, 2]);
        assert_eq!((next.member_epoch, next.state), (5, MemberState::UnrevokedPartitions));
        assert_eq!((next.assigned, next.pending_revocation), (of(&[0]), of(&[1])));
    }

    #[test]
    fn a_member_at_its_target_does_not_move_and_one_in_an_unknown_state_is_fenced() {
        let current = stable(2, &[0]);
        assert_eq!(step(&current, 2, &[0, 1], None, &[]), current);
        let unknown = CurrentAssignment { state: MemberState::Unknown, ..current };
        let (target, owned) = (of(&[0]), of(&[0]));
        let target = Target { epoch: 3, partitions: &target };
        assert_eq!(reconcile(&unknown, target, Some(&owned), |_, _| false), Err(ErrorCode::FencedMemberEpoch));
        assert_eq!(reconcile(&unknown, target, None, |_, _| false), Err(ErrorCode::FencedMemberEpoch));
        let fresh = reconcile(&unknown, target, Some(&Partitions::new()), |_, _| false).expect("it owns nothing");
        assert_eq!((fresh.member_epoch, fresh.state), (3, MemberState::Stable));
    }
}
