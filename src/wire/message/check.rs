//! The rules of messages that a shape alone does not keep, checked before sending and after reading.

use super::{ACK_BYTES_MAX, Hello, Message, MessageError, POINTS_MAX};
use crate::crypto::ForkWitness;
use crate::model::limits::{LOGS_MAX, RECORD_BYTES_MAX, RECORD_PARENTS_MAX, RECORDS_MAX, SPACES_MAX};
use crate::model::{LogId, Seq, Tip, TipHash};

impl Message {
    /// The rules that a shape alone does not keep.
    pub(super) fn check(&self) -> Result<(), MessageError> {
        let kind = self.kind();
        match self {
            Self::Hello(hello) => check_hello(hello, kind),
            Self::RosterHave { hashes, .. } => {
                check_count(hashes.len(), RECORDS_MAX)?;
                check_rising(hashes.iter(), kind)
            }
            Self::Records { records, .. } => {
                check_count(records.len(), RECORDS_MAX)?;
                records.iter().try_for_each(|record| check_at_most(record.len(), RECORD_BYTES_MAX, kind))
            }
            Self::Frontier { entries, .. } => check_tips(entries, kind),
            Self::Ack(ack) => {
                check_at_most(ack.bytes.len(), ACK_BYTES_MAX, kind)?;
                check_tips(&ack.entries, kind)
            }
            Self::ForkProof { bytes, .. } => {
                let expected = 2 * ForkWitness::BYTES;
                let found = bytes.len();
                if found == expected {
                    Ok(())
                } else {
                    Err(MessageError::FieldLength { kind, expected, found })
                }
            }
            Self::Locate { log, points, .. } => {
                check_count(points.len(), POINTS_MAX)?;
                points.iter().try_for_each(|tip| check_tip(log, tip))?;
                check_rising(points.iter().map(|tip| &tip.seq), kind)
            }
            Self::Parting { log, common, .. } => check_tip(log, common),
            Self::RotatePropose { parents, .. } => {
                check_count(parents.len(), RECORD_PARENTS_MAX)?;
                check_rising(parents.iter(), kind)
            }
            Self::Host { message, .. } => message.check(),
            Self::RotateConfirm { .. }
            | Self::Delegate { .. }
            | Self::Receipt { .. }
            | Self::KeyRequest { .. }
            | Self::KeyGrant { .. }
            | Self::KeyRefused { .. }
            | Self::Fork { .. }
            | Self::Ping { .. }
            | Self::Pong { .. }
            | Self::Floor { .. }
            | Self::Unknown(_) => Ok(()),
        }
    }
}

fn check_hello(hello: &Hello, kind: u16) -> Result<(), MessageError> {
    check_count(hello.spaces.len(), SPACES_MAX)?;
    for space in &hello.spaces {
        let expected = space.space.tag();
        if space.scope != expected {
            return Err(MessageError::ScopeTag { space: space.space, expected, found: space.scope });
        }
        check_tips(&space.echo, kind)?;
    }
    Ok(())
}

fn check_tips(entries: &[(LogId, Tip)], kind: u16) -> Result<(), MessageError> {
    check_count(entries.len(), LOGS_MAX)?;
    entries.iter().try_for_each(|(log, tip)| check_tip(log, tip))?;
    check_rising(entries.iter().map(|(log, _)| log), kind)
}

fn check_tip(log: &LogId, tip: &Tip) -> Result<(), MessageError> {
    match (tip.seq == Seq::ZERO) == (tip.hash == TipHash::NONE) {
        true => Ok(()),
        false => Err(MessageError::Tip { log: *log }),
    }
}

const fn check_count(found: usize, limit: usize) -> Result<(), MessageError> {
    if found > limit { Err(MessageError::TooMany { found, limit }) } else { Ok(()) }
}

const fn check_at_most(found: usize, expected: usize, kind: u16) -> Result<(), MessageError> {
    if found > expected { Err(MessageError::FieldLength { kind, expected, found }) } else { Ok(()) }
}

fn check_rising<'a, T: Ord + 'a>(items: impl Iterator<Item = &'a T>, kind: u16) -> Result<(), MessageError> {
    if items.is_sorted_by(|a, b| a < b) { Ok(()) } else { Err(MessageError::Order { kind }) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::form::tests::{hello, log, scope, space_hello, tip};
    use super::*;
    use crate::crypto::EpochKey;
    use crate::model::limits::FRAME_BYTES_MAX;
    use crate::model::{RecordHash, ScopeTag};
    use crate::wire::AckFrame;
    use crate::wire::message::{HostMessage, PROPOSAL_BYTES_MAX, TABLE_PIECE_BYTES_MAX};

    fn frontier(entries: Vec<(LogId, Tip)>) -> Message {
        Message::Frontier { scope: scope(), entries, is_full: true }
    }

    /// What must not be sent is not encoded, and where its shape can be written it is not read.
    fn refused(message: &Message) -> MessageError {
        let bytes = super::super::form::write(message);
        let read = Message::decode(&bytes).expect_err("a rule is broken").to_string();
        let error = message.encode().expect_err("a rule is broken");
        assert_eq!(error.to_string(), read);
        error
    }

    #[test]
    fn lists_rise_strictly() {
        let (one, two) = (RecordHash::from_bytes([1; 32]), RecordHash::from_bytes([2; 32]));
        for hashes in [vec![two, one], vec![one, one]] {
            let have = Message::RosterHave { scope: scope(), hashes };
            assert!(matches!(refused(&have), MessageError::Order { kind: 2 }));
        }

        let entries = vec![(log(2), tip(1)), (log(1), tip(1))];
        assert!(matches!(refused(&frontier(entries.clone())), MessageError::Order { kind: 4 }));
        let ack = AckFrame { scope: scope(), bytes: Bytes::new(), entries: entries.clone(), is_full: true };
        assert!(matches!(refused(&Message::Ack(ack)), MessageError::Order { kind: 5 }));
        let mut hello = hello();
        hello.spaces[0].echo = entries;
        assert!(matches!(refused(&Message::Hello(hello)), MessageError::Order { kind: 1 }));
    }

    #[test]
    fn a_tip_has_a_link_unless_its_log_is_empty() {
        let link = tip(1).hash;

        assert!(frontier(vec![(log(1), Tip::NONE)]).encode().is_ok());
        for tip in [Tip { seq: Seq::ZERO, hash: link }, Tip { seq: Seq::new(1), hash: TipHash::NONE }] {
            assert!(matches!(refused(&frontier(vec![(log(1), tip)])), MessageError::Tip { .. }));
        }
    }

    #[test]
    fn what_hosts_hand_over_is_bounded() {
        let host = |message| Message::Host { scope: scope(), message };
        let long = Bytes::from(vec![0; PROPOSAL_BYTES_MAX + 1]);
        for message in
            [HostMessage::Propose { proposal: long.clone() }, HostMessage::Promised { proposal: long }]
        {
            assert!(matches!(refused(&host(message)), MessageError::FieldLength { .. }));
        }

        let piece = Bytes::from(vec![0; TABLE_PIECE_BYTES_MAX]);
        let table =
            |total, offset, piece: &Bytes| host(HostMessage::Table { total, offset, piece: piece.clone() });
        assert!(table(TABLE_PIECE_BYTES_MAX as u32, 0, &piece).encode().is_ok());
        for beyond in [table(4, 2, &piece.slice(..3)), table(4, u32::MAX, &piece.slice(..1))] {
            assert!(matches!(refused(&beyond), MessageError::FieldLength { kind: 26, .. }));
        }
        let longer = Bytes::from(vec![0; TABLE_PIECE_BYTES_MAX + 1]);
        assert!(matches!(refused(&table(u32::MAX, 0, &longer)), MessageError::FieldLength { kind: 26, .. }));
    }

    #[test]
    fn lists_and_fields_are_bounded() {
        let mut many = hello();
        many.spaces = vec![space_hello(); SPACES_MAX + 1];
        assert!(matches!(
            refused(&Message::Hello(many)),
            MessageError::TooMany { found: 65, limit: SPACES_MAX }
        ));
        let records = Message::Records { scope: scope(), records: vec![Bytes::new(); RECORDS_MAX + 1] };
        assert!(matches!(refused(&records), MessageError::TooMany { .. }));

        let record = Bytes::from(vec![0; RECORD_BYTES_MAX + 1]);
        let records = Message::Records { scope: scope(), records: vec![record] };
        assert!(matches!(refused(&records), MessageError::FieldLength { kind: 3, .. }));
        let ack = AckFrame {
            scope: scope(),
            bytes: vec![0; ACK_BYTES_MAX + 1].into(),
            entries: Vec::new(),
            is_full: false,
        };
        assert!(matches!(refused(&Message::Ack(ack)), MessageError::FieldLength { kind: 5, .. }));
        let proof = Message::ForkProof { scope: scope(), log: log(1), bytes: Bytes::from_static(&[0; 587]) };
        assert!(matches!(
            proof.encode(),
            Err(MessageError::FieldLength { kind: 10, expected: 588, found: 587 })
        ));
    }

    #[test]
    fn a_space_is_announced_under_its_own_tag() {
        let mut hello = hello();
        hello.spaces[0].scope = ScopeTag::from_bytes([9; 16]);
        assert!(matches!(refused(&Message::Hello(hello)), MessageError::ScopeTag { .. }));
    }

    #[test]
    fn frames_are_bounded_both_ways() {
        let record = Bytes::from(vec![0; RECORD_BYTES_MAX]);
        let records = Message::Records { scope: scope(), records: vec![record; 16] };

        assert!(matches!(records.encode(), Err(MessageError::TooLong { limit: FRAME_BYTES_MAX, .. })));
        let frame = vec![0; FRAME_BYTES_MAX + 1];
        assert!(matches!(Message::decode(&frame), Err(MessageError::TooLong { .. })));
        assert!(matches!(Message::decode(&[1]), Err(MessageError::TooShort { found: 1 })));
        assert!(matches!(Message::decode(&[0, 11, 1, 2]), Err(MessageError::Body { kind: 11, .. })));
    }

    #[test]
    fn records_spread_over_frames_in_order() {
        let records: Vec<Bytes> =
            (0..200u8).map(|n| Bytes::from(vec![n; RECORD_BYTES_MAX - usize::from(n)])).collect();

        let messages = Message::records(scope(), records.clone());

        let mut received = Vec::new();
        for message in &messages {
            let read = Message::decode(&message.encode().expect("fits a frame")).unwrap();
            let Message::Records { records, .. } = read else { panic!("records were written") };
            assert!(!records.is_empty());
            received.extend(records);
        }
        assert_eq!(received, records);
        assert!(messages.len() <= 200 / 15 + 1, "15 of the largest records fit one frame");
        assert!(Message::records(scope(), []).is_empty());
    }

    #[test]
    fn the_greatest_frontier_and_roster_fit_one_frame() {
        let spread = |n: u64| *blake3::hash(&n.to_be_bytes()).as_bytes();
        let mut entries: Vec<(LogId, Tip)> = (0..LOGS_MAX as u64)
            .map(|n| {
                let mut bytes = [0; 40];
                bytes[..32].copy_from_slice(&spread(n));
                (LogId::from_bytes(&bytes), Tip { seq: Seq::new(u64::MAX), hash: tip(1).hash })
            })
            .collect();
        entries.sort_unstable_by_key(|(log, _)| *log);
        let mut hashes: Vec<RecordHash> =
            (0..RECORDS_MAX as u64).map(|n| RecordHash::from_bytes(spread(n))).collect();
        hashes.sort_unstable();

        assert!(frontier(entries).encode().is_ok());
        assert!(Message::RosterHave { scope: scope(), hashes }.encode().is_ok());
    }

    #[test]
    fn a_granted_key_is_not_printed() {
        let grant = Message::KeyGrant { scope: scope(), key: EpochKey::from_bytes([0x5a; 32]) };

        let printed = format!("{grant:?}");

        assert!(!printed.contains("5a5a") && !printed.contains("90, 90"), "{printed}");
    }
}
