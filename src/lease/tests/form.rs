use proptest::prelude::*;

use super::bench::*;
use crate::lease::bytes::tagged;
use crate::lease::form::{REQUEST_BYTES_MAX, TABLE_BYTES_MAX};
use crate::lease::*;
use crate::model::{CertHash, LeaseEpoch};

fn table() -> HostState {
    let head = HostHead {
        cert: first().cert,
        term: 0,
        instance: HostInstance::new(7),
        next_n: Some(4),
        mode: Mode::Sealed { proposal: ProposalHash::from_bytes([3; 32]), to: device(2) },
    };
    let mut state = HostState::empty(head);
    let last =
        |number: u64, answer| Last { instance: DaemonInstance::new(2), req_no: ReqNo::new(number), answer };
    let holds = [Hold::Held { holder: holder(2), ttl_max: Ttl::DEFAULT }, Hold::Released, Hold::Expired];
    for (number, hold) in (1..).zip(holds) {
        let epoch = epoch(number);
        let answers = [Answer::Granted { epoch }, Answer::Renewed { epoch }, Answer::Released { epoch }];
        let last = (2..).zip(answers).map(|(by, answer)| (device(by), last(number, answer))).collect();
        state.entries.insert(key(&format!("agent-{number}")), Entry { epoch, hold, last });
    }
    state
}

fn requests() -> Vec<Request> {
    let token = Token { epoch: epoch(5), cert: CertHash::from_bytes([4; 32]) };
    let verbs = [
        Verb::Acquire { ttl: Ttl::DEFAULT },
        Verb::Renew { epoch: epoch(5), ttl: Ttl::MAX },
        Verb::Release { epoch: epoch(5) },
        Verb::Current,
        Verb::Reclaim { token, ttl: Ttl::MIN },
    ];
    let request = |verb| Request {
        instance: DaemonInstance::new(6),
        key: key("backup é"),
        req_no: ReqNo::new(8),
        cert: first().cert,
        seen: Some(epoch(5)),
        verb,
    };
    verbs.into_iter().map(request).collect()
}

fn refusals() -> Vec<LeaseRefused> {
    let (device, cert) = (device(3), CertHash::from_bytes([4; 32]));
    vec![
        LeaseRefused::Held { holder: holder(2), epoch: epoch(1), remaining_ms: 9 },
        LeaseRefused::AlreadyHeld { epoch: epoch(1) },
        LeaseRefused::NotHolder,
        LeaseRefused::Expired { epoch: epoch(1) },
        LeaseRefused::Stale { claimed: epoch(1), current: epoch(2) },
        LeaseRefused::RequestTooOld { last: ReqNo::new(2), found: ReqNo::new(1) },
        LeaseRefused::NotHost { host: Some(device) },
        LeaseRefused::NotHost { host: None },
        LeaseRefused::HostUnreachable { host: device },
        LeaseRefused::Moving { to: Some(device) },
        LeaseRefused::Moving { to: None },
        LeaseRefused::Settling { remaining_ms: 9 },
        LeaseRefused::Deposed { by: cert },
        LeaseRefused::ForkedLineage { found: cert, adopted: first().cert },
        LeaseRefused::Quarantined,
        LeaseRefused::StorageFailed,
        LeaseRefused::ClockUnsafe,
        LeaseRefused::TtlOutOfRange { found_ms: 1, min_ms: 1_000, max_ms: 3_600_000 },
        LeaseRefused::EpochExhausted,
        LeaseRefused::TooManyLeases { limit: 64 },
        LeaseRefused::TooManyRequests { limit: 20, retry_ms: 50 },
        LeaseRefused::KeyInvalid,
        LeaseRefused::NotAuthorized { device },
    ]
}

fn replies() -> Vec<Reply> {
    let standing = Standing { epoch: epoch(5), holder: holder(2), remaining_ms: 12 };
    let said = [
        Answer::Granted { epoch: epoch(5) },
        Answer::Renewed { epoch: epoch(5) },
        Answer::Released { epoch: epoch(5) },
        Answer::Current { standing: None },
        Answer::Current { standing: Some(standing) },
    ];
    let all = said.into_iter().map(Ok).chain(refusals().into_iter().map(Err));
    all.map(|answer| Reply {
        instance: DaemonInstance::new(2),
        key: key("backup"),
        req_no: ReqNo::new(8),
        cert: first().cert,
        answer,
    })
    .collect()
}

fn promises() -> DesignationState {
    let promise = Some(proposal(2, 3, CertKind::Planned));
    DesignationState { instance: HostInstance::new(7), promise, seen: Some(epoch(5)) }
}

fn certificate() -> Certificate {
    let proposal = proposal(2, 3, CertKind::Lost);
    let votes = [2, 3, 4].map(|number| vote(number, &proposal)).to_vec();
    Certificate { proposal, table: None, votes }
}

#[test]
fn every_form_reads_back() {
    let table = table();
    assert_eq!(HostState::from_bytes(&table.to_bytes()), Ok(table.clone()));
    for mode in [Mode::Serving, Mode::Settling, Mode::Quarantined] {
        let head = HostHead { mode, next_n: None, ..table.head };
        assert_eq!(HostHead::from_bytes(&head.to_bytes()), Ok(head));
    }
    for request in requests() {
        let bytes = request.to_bytes();
        assert!(bytes.len() <= REQUEST_BYTES_MAX);
        assert_eq!(Request::from_bytes(&bytes), Ok(request));
    }
    for reply in replies() {
        let bytes = reply.to_bytes();
        assert!(bytes.len() <= REQUEST_BYTES_MAX);
        assert_eq!(Reply::from_bytes(&bytes), Ok(reply));
    }
    for state in [promises(), DesignationState::fresh(HostInstance::FIRST)] {
        assert_eq!(DesignationState::from_bytes(&state.to_bytes()), Ok(state));
    }
    let certificate = certificate();
    let read = Certificate::from_bytes(&certificate.to_bytes(), &|_| Some(device(1)));
    assert_eq!(read, Ok(certificate));
}

/// One hash for each form; the layouts are in `manual/lease.md`.
#[test]
fn the_bytes_are_those_of_version_1() {
    let all = |parts: Vec<Vec<u8>>| parts.concat();
    let requests = all(requests().iter().map(Request::to_bytes).collect());
    let replies = all(replies().iter().map(Reply::to_bytes).collect());
    let forms: [(&str, Vec<u8>); 7] = [
        ("table", table().to_bytes()),
        ("requests", requests),
        ("replies", replies),
        ("promises", promises().to_bytes()),
        ("certificate", certificate().to_bytes()),
        ("certificate hash", certificate().hash().as_bytes().to_vec()),
        ("first certificate", first().cert.as_bytes().to_vec()),
    ];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let found: std::collections::BTreeMap<String, String> =
        forms.iter().map(|(name, bytes)| ((*name).to_owned(), hex(bytes))).collect();
    let golden = include_str!("../../../tests/data/lease-v1.json");

    assert_eq!(serde_json::to_string_pretty(&found).expect("text"), golden.trim_end());
}

#[test]
fn every_malformed_form_is_refused_by_name() {
    let head = table().head.to_bytes();
    let with = |at: usize, byte: u8| {
        let mut bytes = head.clone();
        bytes[at] = byte;
        HostHead::from_bytes(&bytes)
    };
    assert_eq!(HostHead::from_bytes(&head[..10]), Err(FormError::TooShort));
    assert_eq!(HostHead::from_bytes(&[&head[..], &[0]].concat()), Err(FormError::Trailing { extra: 1 }));
    assert_eq!(with(3, b'X'), Err(FormError::Magic { expected: *b"KFLH", found: *b"KFLX" }));
    assert_eq!(with(52, 9), Err(FormError::Number { field: "mode of a register", found: 9 }));

    let request = requests()[3].to_bytes();
    let mut control = request.clone();
    control[13] = 7;
    assert_eq!(Request::from_bytes(&control), Err(FormError::Key));
    let mut state = promises();
    state.promise.as_mut().unwrap().voters.reverse();
    assert_eq!(DesignationState::from_bytes(&state.to_bytes()), Err(FormError::Order));
    let mut many = table().to_bytes();
    let at = 4 + 2 + head.len();
    many[at..at + 2].copy_from_slice(&[255, 255]);
    assert_eq!(HostState::from_bytes(&many), Err(FormError::TooMany { found: 65_535, limit: 1_024 }));
    const { assert!(TABLE_BYTES_MAX < 8 * 1024 * 1024) };
}

proptest! {
    #[test]
    fn no_bytes_bring_a_decoder_down(bytes in proptest::collection::vec(any::<u8>(), 0..300), form in 0..6_usize) {
        let magics: [&[u8]; 6] = [b"KFLH", b"KFLE", b"KFLT", b"KFLQ", b"KFLA", b"KFLD"];
        let bytes = [magics[form], &bytes].concat();
        let _ = HostHead::from_bytes(&bytes);
        let _ = Entry::from_bytes(&bytes);
        let _ = HostState::from_bytes(&bytes);
        let _ = Request::from_bytes(&bytes);
        let _ = Reply::from_bytes(&bytes);
        let _ = DesignationState::from_bytes(&bytes);
    }

    #[test]
    fn what_is_read_is_written_the_same(at in 0..4_000_usize, byte in any::<u8>()) {
        let (table, cert) = (table().to_bytes(), certificate().to_bytes());
        let mut changed = table.clone();
        changed[at % table.len()] = byte;
        if let Ok(state) = HostState::from_bytes(&changed) {
            prop_assert_eq!(state.to_bytes(), changed);
        }
        let mut changed = cert.clone();
        changed[at % cert.len()] = byte;
        if let Ok(read) = Certificate::from_bytes(&changed, &|_| Some(device(1))) {
            prop_assert_eq!(read.to_bytes(), changed);
        }
    }

    #[test]
    fn a_changed_vote_does_not_hold(at in 0..4_000_usize, bit in 0..8_u8) {
        let bytes = certificate().to_bytes();
        let mut changed = bytes.clone();
        changed[at % bytes.len()] ^= 1 << bit;
        let read = Certificate::from_bytes(&changed, &|_| Some(device(1)));
        let held = read.and_then(|cert| cert.check(&first(), Rules::ALL, Signatures::Simulated));
        // What is not signed over is only the table of a certificate that has none.
        prop_assert!(held.is_err());
    }

    #[test]
    fn the_greatest_token_of_a_term_is_the_last(term in 0..1_u32 << 21, n in 1..u32::MAX) {
        let token = LeaseEpoch::of(term, n).unwrap();
        prop_assert!(token < LeaseEpoch::of(term, u32::MAX).unwrap());
    }
}

#[test]
fn real_signatures_hold_and_forged_ones_do_not() {
    use crate::crypto::Identity;

    let identities = [2, 3, 4].map(|number| Identity::from_secret(&[number; 32]));
    let mut devices = identities.each_ref().map(Identity::device);
    devices.sort();
    let voters = devices.map(|device| Voter { device, instance: HostInstance::FIRST }).to_vec();
    let proposal =
        Proposal { host: devices[0], driver: devices[0], voters, ..proposal(2, 2, CertKind::Lost) };
    let mut votes: Vec<Vote> =
        identities.iter().map(|identity| Proposal::confirm(proposal.hash(), None, identity)).collect();
    votes.sort();
    let mut cert = Certificate { proposal, table: None, votes };

    assert!(cert.check(&first(), Rules::ALL, Signatures::Ed25519).is_ok());
    cert.votes[1].signature[5] ^= 1;
    assert_eq!(
        cert.check(&first(), Rules::ALL, Signatures::Ed25519),
        Err(CertError::Signature { device: cert.votes[1].device })
    );
    assert_ne!(tagged(b"a", &[b"b"]), tagged(b"b", &[b"a"]));
}
