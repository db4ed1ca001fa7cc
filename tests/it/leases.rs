//! The register of leases among real nodes over loopback: who holds, who hosts, and what no accident
//! brings about: one token given twice.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kinfold::coordinator::{HeldLease, Uptime};
use kinfold::lease::{
    Answer, DaemonInstance, DesignateRefused, Head, LeaseRefused, Local, Phase, Reply, ReqNo, Request, Ttl,
    Verb,
};
use kinfold::model::{AgentId, CertHash, LeaseEpoch};
use kinfold::net::{AskError, Topic};
use kinfold::node::{HealthReason, LeaseHost, Node, NodeError};
use kinfold::roster::Role;
use kinfold::store::fault::FaultDisk;
use kinfold::sync::RequestError;
use kinfold::wire::{HostMessage, Message};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::clones::{Home, close, meet};
use crate::history::{Chance, seed};
use crate::kin;
use crate::pair::{PATIENCE, invite};
use crate::peers::{World, until_status};

#[tokio::test(flavor = "multi_thread")]
async fn one_device_holds_a_lease_and_another_is_told_who_and_for_how_long() {
    let homes = [Home::init("a"), Home::init("b")];
    let (at_a, at_b) = together(&homes).await;
    let (a, b) = (at_a.personal(), at_b.personal());

    let first = a.acquire_lease(&agent("backup"), Ttl::DEFAULT).await.unwrap();
    assert_eq!(first.epoch(), LeaseEpoch::MIN);
    let refused = b.acquire_lease(&agent("backup"), Ttl::DEFAULT).await.unwrap_err();
    let LeaseRefused::Held { holder, epoch, remaining_ms } = refused else { panic!("{refused:?}") };
    assert_eq!((holder.device, epoch), (at_a.device(), first.epoch()));
    assert!((20_000..=32_300).contains(&remaining_ms), "{remaining_ms}");
    let standing = b.current_lease(&agent("backup")).await.unwrap().expect("it is held");
    assert_eq!((standing.holder, standing.epoch), (holder, epoch));
    assert_eq!(b.current_lease(&agent("nobody's")).await, Ok(None));

    let other = b.acquire_lease(&agent("report"), Ttl::DEFAULT).await.unwrap();
    assert_eq!(other.epoch().get(), 2);
    assert!(matches!(b.local_lease(&agent("report")), Local::Valid { .. }));
    let again = b.acquire_lease(&agent("report"), Ttl::DEFAULT).await;
    assert_eq!(again.unwrap_err(), LeaseRefused::AlreadyHeld { epoch: other.epoch() });
    let longer = b.renew_lease(&agent("report"), other.epoch(), Ttl::MAX).await.unwrap();
    assert_eq!(longer.epoch(), other.epoch());
    assert!(longer.valid_until() > other.valid_until());
    let held_long = b.current_lease(&agent("report")).await.unwrap().expect("it is held").remaining_ms;
    assert!(held_long > 3_000_000, "{held_long}");
    let claimed = first.epoch();
    let stale = b.renew_lease(&agent("report"), claimed, Ttl::DEFAULT).await;
    assert_eq!(stale.unwrap_err(), LeaseRefused::Stale { claimed, current: other.epoch() });

    b.release_lease(&agent("report"), other.epoch()).await.unwrap();
    assert_eq!(b.local_lease(&agent("report")), Local::NotHeld);
    let not_held = b.release_lease(&agent("report"), other.epoch()).await;
    assert_eq!(not_held, Err(LeaseRefused::NotHolder));
    let next = a.acquire_lease(&agent("report"), Ttl::DEFAULT).await.unwrap();
    assert_eq!(next.epoch().get(), 3);
    let host = a.lease_host().await.unwrap();
    assert_eq!((host.host, host.phase, host.leases.len()), (at_a.device(), Phase::Serving, 2));
    let seen_by_b = b.lease_host().await.unwrap();
    assert_eq!((seen_by_b.host, seen_by_b.phase), (at_a.device(), Phase::Absent));
    assert!(seen_by_b.is_reachable && seen_by_b.leases.is_empty());
    for node in [at_a, at_b] {
        close(node).await;
    }
}

/// The register as whoever works under a lease sees it.
#[tokio::test(flavor = "multi_thread")]
async fn the_register_coordinates_whoever_holds_a_lease_while_they_work() {
    let homes = [Home::init("a"), Home::init("b")];
    let (at_a, at_b) = together(&homes).await;
    let (of_a, of_b) = (at_a.personal().lease_register(), at_b.personal().lease_register());
    assert_eq!(of_b.holder(), at_b.lease_holder());

    let held =
        HeldLease::acquire(of_b.clone(), Uptime::system(), agent("backup"), Ttl::DEFAULT).await.unwrap();
    let refused = of_a.acquire(&agent("backup"), Ttl::DEFAULT).await.unwrap_err();
    assert_eq!(refused.kind(), "Held");
    let standing = of_a.current(&agent("backup")).await.unwrap().expect("it is held");
    assert_eq!((standing.holder, standing.epoch), (of_b.holder(), held.epoch()));
    assert!(matches!(of_b.local(&agent("backup")), Local::Valid { .. }));
    let longer = of_b.renew(&agent("backup"), held.epoch(), Ttl::DEFAULT).await.unwrap();
    assert_eq!((longer.epoch, longer.ttl), (held.epoch(), Ttl::DEFAULT));
    held.release().await.unwrap();

    let next = of_a.acquire(&agent("backup"), Ttl::DEFAULT).await.unwrap();
    assert_eq!(next.epoch.get(), 2);
    for node in [at_a, at_b] {
        close(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_free_nothing_and_give_no_token_twice() {
    let homes = [Home::init("a"), Home::init("b")];
    let (at_a, at_b) = together(&homes).await;
    let of_host = at_a.personal().acquire_lease(&agent("host's"), Ttl::DEFAULT).await.unwrap();
    let of_other = at_b.personal().acquire_lease(&agent("other's"), Ttl::DEFAULT).await.unwrap();

    // The host restarts: what it gave is held, its own too, and for a full time.
    close(at_a).await;
    let at_a = homes[0].open().await;
    meet(&at_b, &at_a).await;
    let host = at_a.personal().lease_host().await.unwrap();
    assert_eq!((host.phase, host.leases.len()), (Phase::Recovering, 2));
    let refused = at_b.personal().acquire_lease(&agent("host's"), Ttl::DEFAULT).await.unwrap_err();
    assert!(
        matches!(refused, LeaseRefused::Held { remaining_ms, .. } if remaining_ms > 25_000),
        "{refused:?}"
    );
    let kept = at_b.personal().renew_lease(&agent("other's"), of_other.epoch(), Ttl::DEFAULT).await.unwrap();
    assert_eq!(kept.epoch(), of_other.epoch());
    let lost = at_a.personal().renew_lease(&agent("host's"), of_host.epoch(), Ttl::DEFAULT).await;
    assert_eq!(lost.unwrap_err(), LeaseRefused::NotHolder, "another life of the daemon holds nothing");
    let anew = at_a.personal().acquire_lease(&agent("host's"), Ttl::DEFAULT).await.unwrap();
    assert_eq!(anew.epoch().get(), 3);

    // A holder restarts: a new life of its daemon, a new token.
    close(at_b).await;
    let at_b = homes[1].open().await;
    meet(&at_b, &at_a).await;
    assert_eq!(at_b.personal().local_lease(&agent("other's")), Local::NotHeld);
    let anew = at_b.personal().acquire_lease(&agent("other's"), Ttl::DEFAULT).await.unwrap();
    assert_eq!(anew.epoch().get(), 4);
    for node in [at_a, at_b] {
        close(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_move_takes_the_table_along_and_nobody_waits() {
    let homes = [Home::init("a"), Home::init("b")];
    let (at_a, at_b) = together(&homes).await;
    let (a, b) = (at_a.personal(), at_b.personal());
    let held = a.acquire_lease(&agent("backup"), Ttl::DEFAULT).await.unwrap();

    let moved = a.move_lease_host(at_b.device()).await.unwrap();

    assert_eq!((moved.host, moved.head.term), (at_b.device(), 1));
    let served = until_host(&at_b, |host| host.phase == Phase::Serving).await;
    assert_eq!(served.leases.len(), 1);
    let kept = a.renew_lease(&agent("backup"), held.epoch(), Ttl::DEFAULT).await.unwrap();
    assert_eq!(kept.epoch(), held.epoch());
    let refused = b.acquire_lease(&agent("backup"), Ttl::DEFAULT).await.unwrap_err();
    assert!(matches!(refused, LeaseRefused::Held { epoch, .. } if epoch == held.epoch()));
    let next = b.acquire_lease(&agent("report"), Ttl::DEFAULT).await.unwrap();
    assert_eq!((next.epoch().term(), next.epoch().n()), (1, 1));
    let deposed = a.lease_host().await.unwrap();
    assert!(matches!(deposed.phase, Phase::Deposed | Phase::Sealed), "{:?}", deposed.phase);

    // What the host of now has granted outlives its restart, and back it goes.
    drop(b);
    close(at_b).await;
    let at_b = homes[1].open().await;
    meet(&at_b, &at_a).await;
    let back = at_b.personal().move_lease_host(at_a.device()).await.unwrap();
    assert_eq!((back.host, back.head.term), (at_a.device(), 2));
    until_host(&at_a, |host| host.phase == Phase::Serving).await;
    let kept = a.renew_lease(&agent("backup"), held.epoch(), Ttl::DEFAULT).await.unwrap();
    assert_eq!(kept.epoch(), held.epoch());
    for node in [at_a, at_b] {
        close(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_host_is_replaced_by_a_majority_that_waits_and_a_holder_reclaims() {
    let homes = [Home::init("a"), Home::init("b"), Home::init("c")];
    let (at_a, at_b) = together(&homes[..2]).await;
    let at_c = homes[2].open().await;
    invite(&at_a, &at_c, "c", Role::Member).await;
    meet(&at_c, &at_a).await;
    meet(&at_c, &at_b).await;
    let held = at_c.personal().acquire_lease(&agent("backup"), Ttl::DEFAULT).await.unwrap();
    let b = at_b.personal();
    let not_lost = at_a.personal().replace_lease_host(at_b.device()).await;
    assert!(
        matches!(not_lost, Err(NodeError::Refused(RequestError::Host(_)))),
        "the host is not lost: {not_lost:?}"
    );
    close(at_a).await;

    let replaced = timeout(PATIENCE, b.replace_lease_host(at_b.device())).await.expect("in time").unwrap();

    assert_eq!((replaced.host, replaced.head.term), (at_b.device(), 1));
    let settling = until_host(&at_b, |host| host.phase == Phase::Settling).await;
    assert!(settling.leases.is_empty());
    let refused = b.acquire_lease(&agent("other"), Ttl::DEFAULT).await.unwrap_err();
    assert!(matches!(refused, LeaseRefused::Settling { remaining_ms } if remaining_ms > 3_000_000));
    until_host(&at_c, |host| host.host == at_b.device()).await;
    let reclaimed = at_c.personal().renew_lease(&agent("backup"), held.epoch(), Ttl::DEFAULT).await.unwrap();
    assert_eq!(reclaimed.epoch().term(), 1);

    // The old host comes back and learns that it hosts no more.
    let at_a = homes[0].open().await;
    meet(&at_a, &at_b).await;
    until_host(&at_a, |host| host.phase == Phase::Deposed).await;
    let refused = at_a.personal().acquire_lease(&agent("backup"), Ttl::DEFAULT).await.unwrap_err();
    assert!(matches!(refused, LeaseRefused::Settling { .. }), "{refused:?}");
    for node in [at_a, at_b, at_c] {
        close(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_devices_the_one_that_is_left_hosts_once_the_other_is_revoked() {
    let homes = [Home::init("a"), Home::init("b")];
    let (at_a, at_b) = together(&homes).await;
    let before = at_a.personal().acquire_lease(&agent("backup"), Ttl::DEFAULT).await.unwrap();
    at_b.personal().acquire_lease(&agent("report"), Ttl::DEFAULT).await.unwrap();
    let lost = at_a.device();
    close(at_a).await;
    let b = at_b.personal();

    b.revoke(lost).await.unwrap();
    let without = b.lease_host().await.unwrap();
    assert!(!without.is_member && !without.is_reachable);
    assert_eq!(lease_reasons(&at_b).await, [HealthReason::LeaseHostRemoved { host: lost }]);
    let replaced = b.replace_lease_host(at_b.device()).await.unwrap();

    assert_eq!((replaced.host, replaced.head.term), (at_b.device(), 1));
    until_host(&at_b, |host| host.phase == Phase::Settling).await;
    assert_eq!(lease_reasons(&at_b).await, []);
    // The device that was called lost returns, and nobody lets it in: its tokens are of an old chain.
    let at_a = homes[0].open().await;
    at_a.add_peer(at_b.local_addr().unwrap().to_string()).await.unwrap();
    assert!(!b.lease_host().await.unwrap().is_in_doubt);
    assert!(before.epoch() < LeaseEpoch::of(1, 1).unwrap());
    assert!(at_b.status().await.unwrap().devices.iter().all(|device| device.device != lost));
    for node in [at_a, at_b] {
        close(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_hears_that_it_is_removed_gives_itself_nothing_any_more() {
    let homes = [Home::init("a"), Home::init("b")];
    let (at_a, at_b) = together(&homes).await;
    let a = at_a.personal();
    let held = a.acquire_lease(&agent("backup"), Ttl::DEFAULT).await.unwrap();

    at_b.personal().revoke(at_a.device()).await.unwrap();
    let is_removal = |reason: &HealthReason| matches!(reason, HealthReason::RemovedHere { .. });
    until_status(&at_a, |status| status.health.iter().any(is_removal)).await;

    let refused = LeaseRefused::NotAuthorized { device: at_a.device() };
    assert_eq!(a.acquire_lease(&agent("report"), Ttl::DEFAULT).await.unwrap_err(), refused);
    assert_eq!(a.renew_lease(&agent("backup"), held.epoch(), Ttl::DEFAULT).await.unwrap_err(), refused);
    assert_eq!(a.current_lease(&agent("backup")).await.unwrap_err(), refused);
    for node in [at_a, at_b] {
        close(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_host_gives_nothing_until_another_is_designated() {
    // As backups are: they leave the mark out.
    a_host_is_put_back(|home| fs::remove_file(home.path().join("store.mark")).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_put_back_with_everything_is_told_by_the_tokens_that_others_saw() {
    a_host_is_put_back(|_| {}).await;
}

async fn a_host_is_put_back(spoil: impl Fn(&Home)) {
    let homes = [Home::init("a"), Home::init("b"), Home::init("c")];
    let (at_a, at_b) = together(&homes[..2]).await;
    let at_c = homes[2].open().await;
    invite(&at_a, &at_c, "c", Role::Member).await;
    meet(&at_c, &at_a).await;
    meet(&at_c, &at_b).await;
    at_a.personal().acquire_lease(&agent("early"), Ttl::DEFAULT).await.unwrap();
    close(at_a).await;
    let backup = homes[0].copy();
    let at_a = homes[0].open().await;
    meet(&at_b, &at_a).await;
    let late = at_b.personal().acquire_lease(&agent("late"), Ttl::DEFAULT).await.unwrap();
    close(at_a).await;

    fs::remove_dir_all(homes[0].path()).unwrap();
    assert!(Command::new("cp").arg("-a").args([backup.path(), homes[0].path()]).status().unwrap().success());
    spoil(&homes[0]);
    let at_a = homes[0].open().await;
    meet(&at_b, &at_a).await;

    until_host(&at_a, |host| host.phase == Phase::Quarantined).await;
    assert_eq!(lease_reasons(&at_a).await, [HealthReason::LeasesQuarantined]);
    for space in [at_a.personal(), at_b.personal()] {
        let refused = space.acquire_lease(&agent("any"), Ttl::DEFAULT).await;
        assert_eq!(refused.unwrap_err(), LeaseRefused::Quarantined);
    }
    meet(&at_c, &at_a).await;
    let replaced = at_b.personal().replace_lease_host(at_b.device()).await.unwrap();
    assert_eq!((replaced.host, replaced.head.term), (at_b.device(), 1));
    until_host(&at_b, |host| host.phase == Phase::Settling).await;
    let next = at_b.personal().renew_lease(&agent("late"), late.epoch(), Ttl::DEFAULT).await.unwrap();
    assert!(next.epoch() > late.epoch());
    for node in [at_a, at_b, at_c] {
        close(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_that_nobody_notices_is_shown_and_is_a_reason_once_somebody_asks() {
    let home = Home::init("a");
    close(home.open().await).await;
    fs::remove_file(home.path().join("store.mark")).unwrap();

    let node = home.open().await;
    let shown = node.status().await.unwrap();
    let host = shown.lease_host.expect("a space has a host");
    assert_eq!((host.phase, host.is_in_doubt, host.is_used), (Phase::Quarantined, true, false));
    assert_eq!(shown.health, []);
    let refused = node.personal().acquire_lease(&agent("job"), Ttl::DEFAULT).await.unwrap_err();

    assert_eq!(refused, LeaseRefused::Quarantined);
    assert_eq!(lease_reasons(&node).await, [HealthReason::LeasesQuarantined]);
    close(node).await;
    // Nothing was written for the request; the home is as good as it was.
    let node = home.open().await;
    assert_eq!(lease_reasons(&node).await, []);
    close(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_device_that_is_alone_hosts_again_once_its_person_says_so() {
    let home = Home::init("a");
    let node = home.open().await;
    let first = node.personal().acquire_lease(&agent("job"), Ttl::DEFAULT).await.unwrap();
    close(node).await;
    fs::remove_file(home.path().join("store.mark")).unwrap();

    let node = home.open().await;
    let space = node.personal();
    let refused = space.acquire_lease(&agent("job"), Ttl::DEFAULT).await.unwrap_err();
    let moved = space.move_lease_host(node.device()).await.unwrap_err();
    let replaced = space.replace_lease_host(node.device()).await.unwrap();

    assert_eq!(refused, LeaseRefused::Quarantined);
    let NodeError::Refused(RequestError::Host(moved)) = moved else { panic!("{moved}") };
    assert_eq!(moved, DesignateRefused::InDoubt);
    assert_eq!((replaced.host, replaced.head.term), (node.device(), 1));
    until_host(&node, |host| host.phase == Phase::Settling && !host.is_in_doubt).await;
    // Nothing is granted before everything the lost copy gave has run out, by a restart neither.
    drop(space);
    close(node).await;
    let node = home.open().await;
    let settling = node.personal().acquire_lease(&agent("job"), Ttl::DEFAULT).await.unwrap_err();
    assert!(matches!(settling, LeaseRefused::Settling { .. }), "{settling} after {}", first.epoch());
    close(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_admins_that_name_two_hosts_at_once_end_with_one() {
    let homes = [Home::init("a"), Home::init("b"), Home::init("c")];
    let (at_a, at_b) = together(&homes[..2]).await;
    let at_c = homes[2].open().await;
    invite(&at_a, &at_c, "c", Role::Member).await;
    meet(&at_c, &at_a).await;
    meet(&at_c, &at_b).await;
    let (a, b, c) = (at_a.personal(), at_b.personal(), at_c.personal());
    let held = c.acquire_lease(&agent("backup"), Ttl::DEFAULT).await.unwrap();

    let (one, two) = tokio::join!(a.move_lease_host(at_b.device()), b.move_lease_host(at_c.device()));

    assert!(one.is_ok() || two.is_ok(), "{one:?} {two:?}");
    let spaces = [&a, &b, &c];
    let agreed = async {
        let mut version = at_a.version();
        loop {
            version.mark_unchanged();
            let mut heads = Vec::new();
            for space in spaces {
                heads.push(space.lease_host().await.unwrap().head);
            }
            if heads[0].term > 0 && heads.iter().all(|head| *head == heads[0]) {
                return heads[0];
            }
            version.changed().await.unwrap();
        }
    };
    let head = timeout(PATIENCE, agreed).await.expect("they agree");
    let host = [&at_a, &at_b, &at_c].into_iter().find(|node| node.device() == head.host).unwrap();
    until_host(host, |host| host.phase == Phase::Serving).await;
    let kept = timeout(PATIENCE, c.renew_lease(&agent("backup"), held.epoch(), Ttl::DEFAULT)).await;
    assert_eq!(kept.expect("in time").unwrap().epoch(), held.epoch());
    for node in [at_a, at_b, at_c] {
        close(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_away_is_named_and_only_an_admin_moves_the_register() {
    let homes = [Home::init("a"), Home::init("b")];
    let at_a = homes[0].open().await;
    let at_b = homes[1].open().await;
    invite(&at_a, &at_b, "b", Role::Member).await;
    meet(&at_b, &at_a).await;
    let b = at_b.personal();

    let refused = b.move_lease_host(at_b.device()).await;
    assert!(matches!(refused, Err(NodeError::Refused(RequestError::Roster(_)))), "{refused:?}");
    let stranger = kinfold::model::DeviceId::from_bytes([9; 32]);
    let refused = at_a.personal().move_lease_host(stranger).await;
    assert!(matches!(refused, Err(NodeError::Refused(RequestError::Host(_)))), "{refused:?}");
    let unmoved = at_a.personal().move_lease_host(at_a.device()).await.unwrap();
    assert_eq!(unmoved.head.term, 0);

    let host = at_a.device();
    close(at_a).await;
    let refused = timeout(PATIENCE, b.acquire_lease(&agent("backup"), Ttl::DEFAULT)).await.expect("a bound");
    assert_eq!(refused.unwrap_err(), LeaseRefused::HostUnreachable { host });
    close(at_b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_disk_fails_gives_nothing_it_did_not_write() {
    let home = Home::init("a");
    let open = async |disk: &FaultDisk| {
        let builder = Node::builder(home.path()).store_backend(disk.clone()).without_mdns();
        builder.open().await.unwrap()
    };
    let disk = FaultDisk::with_bytes(fs::read(home.path().join("store/log.redb")).unwrap());
    let node = open(&disk).await;
    let first = node.personal().acquire_lease(&agent("first"), Ttl::DEFAULT).await.unwrap();

    disk.fail_writes(Some(std::io::ErrorKind::Other));
    let refused = node.personal().acquire_lease(&agent("second"), Ttl::DEFAULT).await;
    assert_eq!(refused.unwrap_err(), LeaseRefused::StorageFailed);
    disk.fail_writes(None);
    let refused = node.personal().acquire_lease(&agent("second"), Ttl::DEFAULT).await;
    assert_eq!(refused.unwrap_err(), LeaseRefused::StorageFailed, "nobody knows what the disk holds");
    assert_eq!(lease_reasons(&node).await, [HealthReason::LeaseStorageFailed]);
    node.stop().await.unwrap();

    let node = open(&FaultDisk::with_bytes(disk.bytes())).await;
    let host = node.personal().lease_host().await.unwrap();
    let held: Vec<LeaseEpoch> = host.leases.iter().map(|(_, standing)| standing.epoch).collect();
    assert_eq!(held, [first.epoch()]);
    let second = node.personal().acquire_lease(&agent("second"), Ttl::DEFAULT).await.unwrap();
    assert!(second.epoch() > first.epoch());
    node.stop().await.unwrap();
}

/// A member that asks as it likes: over the network only what it holds by its connection counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_answered_from_the_stored_one_and_what_does_not_read_not_at_all() {
    let world = World::new().await;
    let rogue = world.join().await;
    let (space, host) = (world.victim.personal().id(), world.victim.device());
    let request = |req_no: u64, verb: Verb| Request {
        instance: DaemonInstance::new(5),
        key: agent("backup"),
        req_no: ReqNo::new(req_no),
        cert: Head::first(space, host).cert,
        seen: None,
        verb,
    };
    let ask = async |request: &Request| {
        let question = [&space.tag().as_bytes()[..], &request.to_bytes()].concat();
        let answer = rogue.raw.link.ask(Topic::Lease, question.into(), PATIENCE).await.expect("an answer");
        Reply::from_bytes(&answer).expect("a reply").answer
    };

    let acquire = request(1, Verb::Acquire { ttl: Ttl::DEFAULT });
    let granted = ask(&acquire).await;
    assert_eq!(granted, Ok(Answer::Granted { epoch: LeaseEpoch::MIN }));
    assert_eq!(ask(&acquire).await, granted, "the same request, whatever became of its reply");
    let release = request(2, Verb::Release { epoch: LeaseEpoch::MIN });
    assert_eq!(ask(&release).await, Ok(Answer::Released { epoch: LeaseEpoch::MIN }));
    assert!(matches!(ask(&acquire).await, Err(LeaseRefused::RequestTooOld { .. })), "too old to count");
    let elsewhere = Request { cert: CertHash::NONE, ..request(3, Verb::Current) };
    assert!(matches!(ask(&elsewhere).await, Err(LeaseRefused::ForkedLineage { .. })));

    let other_space = [&[9; 16][..], &request(4, Verb::Current).to_bytes()].concat();
    let cut = [&space.tag().as_bytes()[..], &request(4, Verb::Current).to_bytes()[..20]].concat();
    for question in [other_space, cut, Vec::new()] {
        let refused = rogue.raw.link.ask(Topic::Lease, question.into(), PATIENCE).await;
        assert_eq!(refused, Err(AskError::Refused));
    }
    rogue.raw.stop().await;
    let garbage = HostMessage::Propose { proposal: Bytes::from_static(b"no proposal") };
    let message = Message::Host { scope: space.tag(), message: garbage };
    world.cut_off("does not decode", |rogue| rogue.raw.say(&message)).await;
    world.goes_on().await;
    world.stop().await;
}

#[test]
fn leases_are_taken_and_shown_by_hand_and_every_refusal_says_what_to_do() {
    let homes = [kin::Home::init("desk"), kin::Home::init("lap")];
    let [desk, lap] = &homes;
    desk.run(&["lease", "acquire", "backup"]).expect_code(75).says("kinfold up");
    let _desk = desk.up(&[]);
    let _lap = lap.up(&["--peer", &_desk.listening]);
    kin::pair(desk, lap);
    lap.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    let lease = desk.json(&["lease", "acquire", "backup", "--ttl", "1m"]);
    assert_eq!((lease["agent_id"].clone(), lease["epoch"].clone()), (json!("backup"), json!(1)));
    assert_eq!(lease["holder"], json!(_desk.device));
    assert!(lease["expires_in_ms"].as_u64().is_some_and(|left| left > 50_000), "{lease}");
    lap.run(&["lease", "acquire", "backup"]).expect_code(75).says("ask again");
    let status = lap.json(&["lease", "status", "backup"]);
    assert_eq!(status["lease"]["holder"], json!(_desk.device));
    assert_eq!(lap.json(&["lease", "status", "nothing"])["lease"], Value::Null);
    let shown = desk.run(&["lease", "status"]).expect_code(0);
    assert!(shown.stdout.contains("backup") && shown.stdout.contains("this device, serving"), "{shown:?}");
    let host = lap.run(&["lease", "host"]).expect_code(0);
    assert!(host.stdout.contains("desk") && host.stdout.contains("connected"), "{host:?}");
    for (home, words) in [(desk, "hosted here, serving"), (lap, "hosted by desk\n")] {
        let status = home.run(&["status"]).expect_code(0);
        assert!(status.stdout.contains(words), "{words:?}: {status:?}");
    }
    let told = &lap.json(&["status"])["lease_host"];
    assert_eq!((&told["device_id"], &told["reachable"]), (&json!(_desk.device), &json!(true)), "{told}");

    lap.run(&["lease", "renew", "backup", "1"]).expect_code(1).says("acquire it first");
    lap.run(&["lease", "release", "backup", "1"]).expect_code(1).says("acquire it first");
    lap.run(&["lease", "renew", "backup", "0"]).expect_code(1).says("from 1 to");
    lap.run(&["lease", "acquire", "", "--ttl", "1m"]).expect_code(1).says("1 to 128 bytes");
    lap.run(&["lease", "acquire", "x", "--ttl", "2h"]).expect_code(1).says("3600000");
    lap.run(&["lease", "move-host", "nobody"]).expect_code(1).says("nobody");
    let moved = desk.run(&["lease", "move-host", "lap"]).expect_code(0);
    assert!(moved.stdout.contains("hosted by lap"), "{moved:?}");
    desk.run(&["lease", "move-host", "desk", "--lost"]).expect_code(1).says("--yes lap");
    // The new host may hear of it a moment later than the old one.
    let begun = std::time::Instant::now();
    let renewed = loop {
        let renewed = desk.run(&["--json", "lease", "renew", "backup", "1"]);
        if renewed.code == 0 {
            break serde_json::from_str::<Value>(&renewed.stdout).unwrap();
        }
        assert!(renewed.code == 75 && begun.elapsed() < kin::PATIENCE, "{renewed:?}");
    };
    assert_eq!(renewed["epoch"], json!(1));
    assert_eq!(desk.json(&["lease", "release", "backup", "1"])["released"], json!(true));
    assert_eq!(lap.json(&["lease", "acquire", "backup"])["epoch"], json!(1_u64 << 32 | 1));
}

#[test]
fn a_host_that_is_killed_gives_no_token_twice_and_keeps_what_it_gave() {
    let home = kin::Home::init("host");
    let mut chance = Chance(seed());
    let mut given: BTreeMap<u64, String> = BTreeMap::new();

    for cycle in 0..8 {
        let daemon = home.up(&[]);
        let is_over = AtomicBool::new(false);
        let wanted = usize::try_from(1 + chance.below(6)).unwrap();
        let answers = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut answers = Vec::new();
                let mut caller = kin::Caller::connect(&home);
                // Eight times as many are what one device may hold.
                for n in 0..7 {
                    let agent = format!("agent {cycle} {n}");
                    let line = json!({"jsonrpc": "2.0", "id": n, "method": "lease.acquire",
                        "params": {"agent_id": agent}});
                    caller.send_or_gone(line.to_string().as_bytes());
                    let Some(answer) = caller.next_or_gone() else { break };
                    answers.push((agent, answer));
                    is_over.store(answers.len() >= wanted, Ordering::Relaxed);
                }
                is_over.store(true, Ordering::Relaxed);
                answers
            });
            while !is_over.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            daemon.kill();
            asking.join().expect("asking does not panic")
        });
        for (agent, answer) in answers {
            let epoch = answer["result"]["epoch"].as_u64().unwrap_or_else(|| panic!("{answer}"));
            assert_eq!(given.insert(epoch, agent), None, "epoch {epoch} was given twice");
        }
    }

    assert!(given.len() >= 8, "the kills came too early to show anything: {}", given.len());
    let _daemon = home.up(&[]);
    let host = home.json(&["lease", "host"]);
    let held: Vec<u64> =
        host["leases"].as_array().unwrap().iter().map(|lease| lease["epoch"].as_u64().unwrap()).collect();
    let recent: Vec<&u64> = given.keys().rev().take(5).collect();
    assert!(recent.iter().all(|epoch| held.contains(epoch)), "{recent:?} {held:?}");
}

fn agent(name: &str) -> AgentId {
    name.parse().expect("a short name")
}

/// Two homes of one person, the first the host, connected.
async fn together(homes: &[Home]) -> (Node, Node) {
    let (at_a, at_b) = (homes[0].open().await, homes[1].open().await);
    invite(&at_a, &at_b, "b", Role::Admin).await;
    meet(&at_b, &at_a).await;
    (at_a, at_b)
}

/// What a device tells of its health that has to do with leases.
async fn lease_reasons(node: &Node) -> Vec<HealthReason> {
    let mut health = node.status().await.unwrap().health;
    health.retain(|reason| {
        matches!(
            reason,
            HealthReason::LeaseHostRemoved { .. }
                | HealthReason::LeasesQuarantined
                | HealthReason::LeaseStorageFailed
        )
    });
    health
}

/// Waits until the register looks like this from one device.
async fn until_host(node: &Node, check: impl Fn(&LeaseHost) -> bool) -> LeaseHost {
    let (space, mut version) = (node.personal(), node.version());
    let found = async {
        loop {
            version.mark_unchanged();
            let host = space.lease_host().await.unwrap();
            if check(&host) {
                return host;
            }
            version.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, found).await.expect("in time")
}
