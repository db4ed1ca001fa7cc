//! The store as a whole: what survives, what is refused, what is on the disk.

use bytes::Bytes;

use super::fault::{FaultDisk, Loss};
use super::testing::{Author, LOCAL_KEY, payload, reopen, store, whole_run};
use super::*;
use crate::crypto::EpochKey;
use crate::model::{DeviceId, RecordHash, Scope, Seq, SpaceId, Tip};
use crate::sync::{DraftGroup, Write};

#[test]
fn a_store_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}

    shared::<Store>();
    shared::<Blocks>();
    shared::<KeyRing>();
}

#[test]
fn every_kind_of_write_is_there_after_opening_again() {
    let mut author = Author::new(1);
    let (store, disk) = store(&mut author);
    let other = Author::new(2);
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let (space, device) = (author.space, author.log.device);
    let hash = RecordHash::from_bytes([1; 32]);
    let writes = vec![
        Write::Record { space, hash, bytes: bytes("record") },
        Write::Ack { space, device, bytes: bytes("old ack") },
        Write::Ack { space, device, bytes: bytes("ack") },
        Write::Key { space, key: EpochKey::from_bytes([5; 32]) },
        Write::ForkProof { space, log: other.log, bytes: bytes("proof") },
        Write::Space {
            space,
            scope: Scope::Shared("org".into()),
            own_log: author.log,
            is_active: false,
            carried: Seq::ZERO,
            dropped: 0,
        },
    ];
    author.commit(&store, writes);
    drop(store);

    let (_, loaded) = reopen(&disk);

    let [loaded] = &loaded.spaces[..] else { panic!("one space was written") };
    assert_eq!((loaded.space, loaded.own_log, loaded.is_active), (space, author.log, false));
    assert_eq!(loaded.scope, Scope::Shared("org".into()));
    assert_eq!(loaded.records, [(hash, bytes("record"))]);
    assert_eq!(loaded.acks, [(device, bytes("ack"))]);
    assert_eq!(loaded.keys, [EpochKey::from_bytes([5; 32])]);
    assert_eq!(loaded.fork_proofs, [(other.log, bytes("proof"))]);
    assert_eq!(loaded.frontier.log_count(), 0);
}

#[test]
fn spaces_and_their_logs_stay_apart() {
    let mut author = Author::new(1);
    let (store, disk) = store(&mut author);
    let mut others: Vec<Author> = (2..6).map(Author::new).collect();
    for (index, other) in others.iter_mut().enumerate() {
        other.space = SpaceId::from_bytes([index as u8; 32]);
        let space = other.space_write();
        let batches = other.batches(3, 2);
        let write = other.write(batches);
        other.commit(&store, vec![space, write]);
    }
    drop(store);

    let (store, loaded) = reopen(&disk);

    assert!(loaded.spaces.is_sorted_by_key(|loaded| loaded.space));
    assert_eq!(loaded.spaces.len(), 5);
    for other in &others {
        let loaded = loaded.spaces.iter().find(|loaded| loaded.space == other.space).unwrap();
        assert_eq!(loaded.frontier.log_count(), 1);
        assert_eq!(loaded.frontier.tip(&other.log), other.tip());
        assert!(!whole_run(&store, other).is_empty());
    }
}

#[test]
fn drafts_stay_until_they_are_sealed_and_no_longer() {
    let mut author = Author::new(1);
    let (store, disk) = store(&mut author);
    let drafts = vec![author.drafts(1, 2), author.drafts(3, 1), author.drafts(4, 4)];
    let Write::Drafts { group, .. } = drafts[1].clone() else { unreachable!() };
    author.commit(&store, drafts);

    let loaded = reopen_loaded(store, &disk);
    assert_eq!(first_and_count(&loaded.1), [(1, 2), (3, 1), (4, 4)]);
    assert_eq!(loaded.1.spaces[0].drafts[1].body, group.body);

    // The batch ends within the third group: the rest of it stays.
    let batch = author.batch(5, 40);
    let write = author.write(vec![batch]);
    let sealed = Write::DraftsSealed { space: author.space, through: Seq::new(5) };
    author.commit(&loaded.0, vec![write, sealed]);
    let loaded = reopen_loaded(loaded.0, &disk);
    assert_eq!(first_and_count(&loaded.1), [(6, 2)]);
    let frame = crate::wire::body::BodyReader::new(&loaded.1.spaces[0].drafts[0].body, Seq::new(6), 2)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(frame.body, payload(6, 40));

    let more = author.drafts(8, 1);
    author.commit(&loaded.0, vec![more]);
    let batch = author.batch(3, 40);
    let write = author.write(vec![batch]);
    let sealed = Write::DraftsSealed { space: author.space, through: Seq::new(8) };
    author.commit(&loaded.0, vec![write, sealed]);
    assert_eq!(first_and_count(&reopen_loaded(loaded.0, &disk).1), []);
}

#[test]
fn what_does_not_continue_the_log_is_refused_and_nothing_written() {
    let mut author = Author::new(1);
    let (store, _) = store(&mut author);
    let batches = author.batches(4, 2);
    let before = author.write(vec![batches[0].clone()]);
    author.commit(&store, vec![before]);
    let held = whole_run(&store, &author);
    let mut forked = Author::new(1);
    let fork = forked.batch(3, 40);
    let mut refused = |writes: Vec<Write>| {
        let good = author.write(vec![batches[1].clone()]);
        let txns = [author.txn(vec![good]), author.txn(writes)];
        let error = store.commit(&txns).unwrap_err();
        assert_eq!(whole_run(&store, &author), held);
        error
    };

    let space = SpaceId::from_bytes([7; 32]);
    let write = |batch: &crate::crypto::SealedBatch| {
        vec![Write::Batches { space, log: batch.header().log, batches: vec![batch.clone()] }]
    };
    for batch in [&batches[0], &batches[1], &batches[3], &fork] {
        assert!(matches!(refused(write(batch)), StoreError::NotContiguous { .. }), "{batch:?}");
    }
    let other_log = Author::new(2).batch(1, 40);
    let misplaced = vec![Write::Batches { space, log: batches[0].header().log, batches: vec![other_log] }];
    assert!(matches!(refused(misplaced), StoreError::NotContiguous { .. }));
    let author = Author::new(1);
    assert!(matches!(refused(vec![author.drafts(9, 1)]), StoreError::NotContiguous { .. }));
    assert!(matches!(refused(vec![author.drafts(4, 1)]), StoreError::NotContiguous { .. }));
    let group = DraftGroup { log: author.log, first: Seq::new(5), op_count: 1, body: b"no body".to_vec() };
    assert!(matches!(refused(vec![Write::Drafts { space, group }]), StoreError::NoBody { .. }));
    let through = Seq::new(5);
    assert!(matches!(
        refused(vec![author.drafts(5, 1), Write::DraftsSealed { space, through }]),
        StoreError::DraftsUnsealed { .. }
    ));
    let nowhere = SpaceId::from_bytes([0; 32]);
    for write in [
        Write::DraftsSealed { space: nowhere, through },
        Write::Record { space: nowhere, hash: RecordHash::from_bytes([0; 32]), bytes: Bytes::new() },
        Write::Batches { space: nowhere, log: author.log, batches: vec![batches[2].clone()] },
    ] {
        assert!(matches!(refused(vec![write]), StoreError::UnknownSpace { .. }));
    }
}

/// Commits, one by one, that touch every table; returns how many were acknowledged.
fn scripted_commits(store: &Store, author: &mut Author) -> usize {
    for round in 0..CRASH_COMMITS {
        let txn = scripted_txn(author, round);
        if store.commit(&[txn]).is_err() {
            return round;
        }
    }
    CRASH_COMMITS
}

/// Round `n` makes op `2n + 1` a draft and then seals it together with op `2n + 2`.
fn scripted_txn(author: &mut Author, round: usize) -> crate::sync::Txn {
    let first = 2 * round as u64 + 1;
    let (space, through) = (author.space, Seq::new(first + 1));
    let op_bytes = if round % 4 == 3 { 6_000 } else { 40 };
    let drafts = author.drafts(first, 1);
    let batch = author.batch(2, op_bytes);
    let batches = author.write(vec![batch]);
    let key = EpochKey::from_bytes([round as u8; 32]);
    let device = DeviceId::from_bytes([1; 32]);
    let ack = Bytes::from(vec![round as u8]);
    author.txn(vec![
        author.space_write(),
        drafts,
        batches,
        Write::DraftsSealed { space, through },
        Write::Key { space, key },
        Write::Ack { space, device, bytes: ack },
    ])
}

const CRASH_COMMITS: usize = 12;

/// How many scripted commits a reopened store holds; every table must agree.
fn commits_held(disk: &FaultDisk, name: &str) -> usize {
    let (store, loaded) =
        Store::open_with(disk.clone(), None, &LOCAL_KEY).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let Some(space) = loaded.spaces.first() else { return 0 };
    let mut author = Author::new(1);
    let tip = space.frontier.tip(&author.log).seq.get() as usize;
    assert_eq!(tip % 2, 0, "{name}");
    let held = tip / 2;
    let mut bytes = Vec::new();
    for round in 0..held {
        for write in scripted_txn(&mut author, round).writes {
            if let Write::Batches { batches, .. } = write {
                bytes.extend_from_slice(batches[0].bytes());
            }
        }
    }
    assert_eq!(whole_run(&store, &author), bytes, "{name}");
    assert_eq!(space.keys.len(), held, "{name}");
    assert!(space.drafts.is_empty(), "{name}");
    assert_eq!(space.acks.len(), 1, "{name}");
    assert_eq!(usize::from(space.acks[0].1[0]) + 1, held, "{name}");
    held
}

#[test]
fn a_power_cut_at_any_sync_keeps_what_was_acknowledged_and_nothing_by_half() {
    let whole = FaultDisk::new();
    let (store, _) = reopen(&whole);
    let made = whole.sync_count();
    scripted_commits(&store, &mut Author::new(1));
    let sync_count = whole.sync_count();
    assert!(sync_count >= made + CRASH_COMMITS as u64);

    // Before that, `Store::open` works on a file that does not count yet.
    for cut in made..sync_count {
        let disk = FaultDisk::new();
        disk.cut_power_at_sync(cut);
        let acked = scripted_commits(&reopen(&disk).0, &mut Author::new(1));
        for (loss, seed_count) in [(Loss::All, 1), (Loss::Subset, 12), (Loss::Torn, 12)] {
            for seed in 0..seed_count {
                let name = format!("cut at sync {cut}, {loss:?}, seed {seed}");

                let held = commits_held(&disk.after_power_cut(loss, seed), &name);

                assert!(acked <= held && held <= acked + 1, "{name}: {acked} acknowledged, {held} held");
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_commits_and_takes_them_once_there_is_space() {
    let mut author = Author::new(1);
    let (store, disk) = store(&mut author);
    let batches = author.batches(2, 100);
    let write = author.write(batches);
    author.commit(&store, vec![write]);
    let held = whole_run(&store, &author);
    let large: Vec<_> = (0..40).map(|_| author.batch(10, 5_000)).collect();
    let write = author.write(large);
    let txn = author.txn(vec![write]);
    disk.limit_free_bytes(64 * 1024);

    for _ in 0..3 {
        assert!(matches!(store.commit(std::slice::from_ref(&txn)), Err(StoreError::DiskFull(_))));
        assert_eq!(whole_run(&store, &author), held, "reads go on");
    }

    disk.unlimit();
    store.commit(&[txn]).unwrap();
    drop(store);
    let (store, loaded) = reopen(&disk);
    assert_eq!(loaded.spaces[0].frontier.tip(&author.log), author.tip());
    assert!(whole_run(&store, &author).starts_with(&held));
}

#[test]
fn a_sync_that_fails_once_is_settled_at_once() {
    let mut author = Author::new(1);
    let (store, disk) = store(&mut author);
    let batch = author.batch(1, 40);
    let write = author.write(vec![batch]);
    let txn = author.txn(vec![write]);
    disk.fail_syncs(1);

    // The sync failed, but its writes reached the disk when the store was opened anew.
    let result = store.commit(std::slice::from_ref(&txn));

    let is_held = !whole_run(&store, &author).is_empty();
    assert_eq!(result.is_ok(), is_held);
    if !is_held {
        assert!(matches!(result, Err(StoreError::Io(_))));
        store.commit(&[txn]).unwrap();
    }
    drop(store);
    assert_eq!(reopen(&disk).1.spaces[0].frontier.tip(&author.log), author.tip());
}

#[test]
fn a_commit_in_doubt_is_settled_by_its_retry() {
    let mut author = Author::new(1);
    let (store, disk) = store(&mut author);
    let batch = author.batch(1, 40);
    let write = author.write(vec![batch]);
    let txn = author.txn(vec![write]);
    disk.fail_syncs(1_000);

    for _ in 0..2 {
        assert!(matches!(store.commit(std::slice::from_ref(&txn)), Err(StoreError::Io(_))));
    }
    assert!(matches!(
        store.batch_at(&author.space, &author.log, Seq::new(1)),
        Ok(None) | Err(StoreError::Io(_))
    ));

    disk.fail_syncs(0);
    store.commit(&[txn]).unwrap();
    let batch = author.batch(1, 40);
    let next = author.write(vec![batch]);
    author.commit(&store, vec![next]);
    drop(store);
    assert_eq!(reopen(&disk).1.spaces[0].frontier.tip(&author.log), author.tip());
}

#[test]
fn a_disk_that_may_not_be_written_is_named() {
    for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
        let disk = FaultDisk::new();
        disk.fail_writes(Some(kind));

        assert!(matches!(Store::open_with(disk, None, &LOCAL_KEY), Err(StoreError::ReadOnly(_))));
    }
}

#[test]
fn a_store_of_another_key_or_a_newer_format_is_refused_untouched() {
    let mut author = Author::new(1);
    let (first, disk) = store(&mut author);
    drop(first);
    assert!(matches!(Store::open_with(disk.clone(), None, &[1; 32]), Err(StoreError::OtherKey)));

    let db = redb::Builder::new().create_with_backend(disk.clone()).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(tables::META).unwrap().insert(tables::META_FORMAT, &9u32.to_be_bytes()[..]).unwrap();
    txn.commit().unwrap();
    drop(db);
    assert!(matches!(
        Store::open_with(disk, None, &LOCAL_KEY),
        Err(StoreError::NewerFormat { found: 9, known: FORMAT })
    ));

    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(FORMAT_FILE), "2\n").unwrap();
    std::fs::write(home.path().join(STORE_FILE), "a later kinfold's").unwrap();
    assert!(matches!(
        Store::open(home.path(), &LOCAL_KEY),
        Err(StoreError::NewerFormat { found: 2, known: FORMAT })
    ));
    assert_eq!(std::fs::read(home.path().join(STORE_FILE)).unwrap(), b"a later kinfold's");
}

#[test]
fn a_folder_is_opened_once_at_a_time_and_says_what_is_wrong_with_it() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let (store, _) = Store::open(&dir, &LOCAL_KEY).unwrap();

    assert!(matches!(Store::open(&dir, &LOCAL_KEY), Err(StoreError::InUse)));
    drop(store);
    Store::open(&dir, &LOCAL_KEY).unwrap();
    for (content, is_damaged) in [("nonsense", true), ("0", true), ("", false)] {
        std::fs::write(dir.join(FORMAT_FILE), content).unwrap();
        let result = Store::open(&dir, &LOCAL_KEY);
        assert_eq!(matches!(result, Err(StoreError::Damaged { what: Part::Format, .. })), is_damaged);
    }
}

#[test]
fn a_store_whose_making_was_cut_short_is_made_anew() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(UNFINISHED_FILE), [0; 5_000]).unwrap();
    std::fs::write(home.path().join(FORMAT_FILE), "").unwrap();

    let (_, loaded) = Store::open(home.path(), &LOCAL_KEY).unwrap();

    assert!(loaded.spaces.is_empty());
    assert!(!home.path().join(UNFINISHED_FILE).exists());
}

#[test]
fn a_truncated_file_is_an_error_that_says_what_to_do() {
    let (disk, _) = filled_disk();
    let bytes = disk.bytes();

    for length in [1, 511, 4096, bytes.len() / 3, bytes.len() - 4096, bytes.len() - 1] {
        let disk = FaultDisk::with_bytes(bytes[..length].to_vec());
        let Err(error) = Store::open_with(disk, None, &LOCAL_KEY) else { panic!("{length} bytes opened") };
        assert!(matches!(error, StoreError::Damaged { what: Part::File, .. }), "{length}: {error:?}");
        assert!(error.to_string().contains("move this home aside"));
    }
}

#[test]
fn a_flipped_bit_is_an_error_or_does_not_matter_and_never_a_panic() {
    let (disk, author) = filled_disk();
    let bytes = disk.bytes();
    let good = whole_run(&reopen(&disk).0, &author);
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let mut damaged_count = 0;
    // Odd steps reach every field of the pages sooner or later.
    for at in (0..used).step_by(211) {
        let mut spoiled = bytes.clone();
        spoiled[at] ^= 1 << (at % 8);
        let run =
            Store::open_with(FaultDisk::with_bytes(spoiled), None, &LOCAL_KEY).and_then(|(store, _)| {
                store.run(&author.space, &author.log, Seq::ZERO, author.tip().seq, usize::MAX)
            });

        match run {
            Ok(Some(run)) => assert!(run.bytes == good, "byte {at}"),
            // A flipped number of a log or a space hides it; the engine sees that its tip is gone.
            Ok(None) => {}
            Err(StoreError::Damaged { .. } | StoreError::OtherKey | StoreError::NewerFormat { .. }) => {
                damaged_count += 1;
            }
            Err(other) => panic!("byte {at}: {other:?}"),
        }
    }
    assert!(damaged_count > 20, "{damaged_count}");
}

#[test]
fn nothing_that_is_secret_reaches_the_disk() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let (store, _) = Store::open(&dir, &LOCAL_KEY).unwrap();
    let mut author = Author::new(1);
    author.key = EpochKey::from_bytes(*b"canary canary canary canary keys");
    let key = Write::Key { space: author.space, key: author.key.clone() };
    let writes = vec![author.space_write(), key, author.drafts(1, 3)];
    author.commit(&store, writes);
    store.save_snapshot(&author.space, |sink| sink(CANARY)).unwrap();

    let drafted = payload(2, 40);
    let secrets = [CANARY, author.key.expose(), &LOCAL_KEY, &drafted];
    for file in std::fs::read_dir(&dir).unwrap() {
        let file = file.unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        for secret in secrets {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{:?}", file.file_name());
        }
    }
}

const CANARY: &[u8] = b"canary in the index";

#[test]
fn damage_of_a_single_row_is_named() {
    let damage = |spoil: &dyn Fn(&redb::WriteTransaction)| {
        let (disk, _) = filled_disk();
        let db = redb::Builder::new().create_with_backend(disk.clone()).unwrap();
        let txn = db.begin_write().unwrap();
        spoil(&txn);
        txn.commit().unwrap();
        drop(db);
        match Store::open_with(disk, None, &LOCAL_KEY) {
            Err(StoreError::Damaged { what, .. }) => what,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("the damage went unnoticed"),
        }
    };

    let what = damage(&|txn| {
        txn.open_table(tables::SPACES).unwrap().insert(0, &b"short"[..]).unwrap();
    });
    assert_eq!(what, Part::Row { table: "spaces" });
    let what = damage(&|txn| {
        txn.open_table(tables::DRAFTS).unwrap().insert((0, 0, 1_000), &[0; 200][..]).unwrap();
    });
    assert!(matches!(what, Part::Drafts { .. }));
    let what = damage(&|txn| {
        txn.open_table(tables::KEYS).unwrap().insert((0, [0; 16]), &[0; 200][..]).unwrap();
    });
    assert_eq!(what, Part::Row { table: "keys" });
    let what = damage(&|txn| {
        txn.open_table(tables::META).unwrap().remove(tables::META_FORMAT).unwrap();
    });
    assert_eq!(what, Part::Row { table: "meta" });
}

fn filled_disk() -> (FaultDisk, Author) {
    let mut author = Author::new(1);
    let (store, disk) = store(&mut author);
    for _ in 0..6 {
        let batches = author.batches(4, 50);
        let write = author.write(batches);
        author.commit(&store, vec![write]);
    }
    assert_ne!(author.tip(), Tip::NONE);
    (disk, author)
}

fn reopen_loaded(store: Store, disk: &FaultDisk) -> (Store, Loaded) {
    drop(store);
    reopen(disk)
}

fn first_and_count(loaded: &Loaded) -> Vec<(u64, u32)> {
    loaded.spaces[0].drafts.iter().map(|group| (group.first.get(), group.op_count)).collect()
}
