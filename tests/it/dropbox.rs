//! Devices that are never awake together leave sealed changes for each other in a folder.

use std::fs;
use std::path::{Path, PathBuf};

use kinfold::model::Scope;
use kinfold::roster::Role;
use serde_json::{Value, json};

use crate::crash::bytes_below;
use crate::kin::{Caller, Home};
use crate::members::enrol;

/// A folder that is nobody's home.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("box").tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn text(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    /// The folder of the one space in it.
    fn inside(&self) -> PathBuf {
        fs::read_dir(self.path()).unwrap().next().expect("a space has its folder").unwrap().path()
    }

    /// The names of its objects of one kind, in order.
    fn objects(&self, kind: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.inside()).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|file| name(file).starts_with(kind));
        files.sort();
        files
    }
}

fn name(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

fn add(home: &Home, folder: &Folder) {
    home.run(&["dropbox", "add", folder.text()]).expect_code(0);
}

/// One round, with nobody else awake.
fn sync(home: &Home) -> Value {
    home.json(&["sync", "--timeout", "0"])
}

fn put(home: &Home, id: &str, value: &str) {
    home.run(&["put", "registry:note", id, value]).expect_code(0);
}

fn root(home: &Home) -> Value {
    home.json(&["status"])["state_hash"].clone()
}

/// Two devices of one person that met once, and a folder both know.
fn two() -> (Home, Home, Folder) {
    let (a, b, folder) = (Home::init("a"), Home::init("b"), Folder::new());
    enrol(&a, &b, &Scope::Personal, "b", Role::Admin);
    add(&a, &folder);
    add(&b, &folder);
    (a, b, folder)
}

#[test]
fn two_devices_that_are_never_awake_together_sync_both_ways_with_conflicts_and_receipts() {
    let (a, b, folder) = two();
    put(&a, "x", "1");
    put(&a, "y", "\"canary-value\"");
    put(&b, "x", "2");

    let left = sync(&a);
    // In the drop box is not on a device.
    a.run(&["safe-to-sleep"]).expect_code(75);
    let taken = sync(&b);
    let back = sync(&a);

    assert_eq!((&left["dropbox_pushed"], &left["dropboxes"]), (&json!(2), &json!(1)), "{left}");
    assert_eq!((&taken["dropbox_pulled"], &taken["dropbox_pushed"]), (&json!(2), &json!(1)), "{taken}");
    assert_eq!((&back["dropbox_pulled"], &back["dropbox_pushed"]), (&json!(1), &json!(0)), "{back}");
    assert_eq!(root(&a), root(&b));
    assert_eq!(a.json(&["conflicts"])["conflicts"].as_array().unwrap().len(), 1);
    assert_eq!(a.json(&["safe-to-sleep"])["holders"], json!([b.json(&["devices", "id"])["device_id"]]));
    sync(&b);
    assert_eq!(b.json(&["safe-to-sleep"])["safe"], true);
    let shown = a.json(&["dropbox", "list"])["dropboxes"][0].clone();
    assert_eq!((&shown["place"], &shown["scope"]), (&json!(folder.text()), &json!("personal")), "{shown}");
    // What is all there costs a look and nothing else.
    let files = fs::read_dir(folder.inside()).unwrap().count();
    for home in [&a, &b] {
        let again = sync(home);
        assert_eq!((&again["dropbox_pulled"], &again["dropbox_pushed"]), (&json!(0), &json!(0)), "{again}");
    }
    assert!(fs::read_dir(folder.inside()).unwrap().count() <= files);
    let names: Vec<String> = folder.objects("").iter().map(|file| name(file)).collect();
    let id = a.json(&["devices", "id"])["device_id"].as_str().unwrap().to_owned();
    assert!(names.iter().all(|name| !name.contains(&id[..7])), "{names:?}");
    for (path, bytes) in bytes_below(folder.path()) {
        for word in ["canary-value", "registry:note"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word} in {path}");
        }
    }
}

#[test]
fn three_devices_with_one_that_reads_nothing_pass_everything_on() {
    let (a, b, c) = (Home::init("a"), Home::init("b"), Home::init("c"));
    let (one, two) = (Folder::new(), Folder::new());
    enrol(&a, &b, &Scope::Personal, "b", Role::Blind);
    enrol(&a, &c, &Scope::Personal, "c", Role::Member);
    add(&a, &one);
    add(&b, &one);
    add(&b, &two);
    add(&c, &two);
    put(&a, "x", "1");
    put(&c, "y", "2");

    for home in [&a, &b, &c, &b, &a] {
        sync(home);
    }

    assert_eq!(root(&a), root(&c));
    assert_eq!(c.run(&["get", "registry:note", "x"]).expect_code(0).stdout, "1\n");
    assert_eq!(b.json(&["status"])["rows"], 0);
    let holders = a.json(&["safe-to-sleep"])["holders"].as_array().unwrap().len();
    assert_eq!(holders, 2, "the ack of the one that never met this folder came through the other");
}

#[test]
fn a_synced_folder_that_delivers_late_out_of_order_twice_and_in_halves_loses_nothing() {
    let (a, b, folder) = two();
    let there = Folder::new();
    b.run(&["dropbox", "rm", folder.text()]).expect_code(0);
    add(&b, &there);
    for n in 0..4 {
        put(&a, &format!("row{n}"), &n.to_string());
        sync(&a);
    }
    let mut batches = folder.objects("b.");
    // By the position of their first op.
    batches.sort_by_key(|file| u64::from_str_radix(name(file).split('.').nth(3).unwrap(), 16).unwrap());
    assert_eq!(batches.len(), 4);
    let deliver = |file: &Path, as_name: &str, bytes: usize| {
        let all = fs::read(file).unwrap();
        fs::write(there.inside().join(as_name), &all[..bytes.min(all.len())]).unwrap();
    };
    let taken = || sync(&b)["dropbox_pulled"].as_u64().unwrap();

    deliver(&batches[2], &name(&batches[2]), usize::MAX);
    deliver(&batches[3], &name(&batches[3]), 100);
    assert_eq!(taken(), 0, "what comes before is missing");
    deliver(&batches[0], &name(&batches[0]).replace(".kfx", " (1).kfx"), usize::MAX);
    assert_eq!(taken(), 1, "a second copy under another name is whole");
    deliver(&batches[0], &name(&batches[0]), 50);
    deliver(&batches[1], &format!("Copy of {}", name(&batches[1])), 60);
    assert_eq!(taken(), 0, "halves are waited for");
    deliver(&batches[1], &name(&batches[1]), usize::MAX);
    assert_eq!(taken(), 2);
    let mut spoiled = fs::read(&batches[3]).unwrap();
    let middle = spoiled.len() / 2;
    spoiled[middle] ^= 1;
    fs::write(there.inside().join(name(&batches[3])), spoiled).unwrap();
    assert_eq!(taken(), 0, "a damaged file is none");
    deliver(&batches[3], &name(&batches[3]), usize::MAX);
    assert_eq!(taken(), 1);
    assert_eq!(b.json(&["list", "registry:note"])["rows"].as_array().unwrap().len(), 4);
    assert_eq!(root(&a), root(&b));
}

#[test]
fn files_of_others_are_left_alone_and_what_is_damaged_is_left_there_again() {
    let (a, b, folder) = two();
    put(&a, "x", "1");
    sync(&a);
    let inside = folder.inside();
    let foreign =
        [("holiday.jpg", "not an object"), (".DS_Store", ""), ("c.later.kfx", "of a later version")];
    for (file, text) in foreign {
        fs::write(inside.join(file), text).unwrap();
    }
    fs::create_dir(inside.join("folder")).unwrap();
    let object = folder.objects("b.").remove(0);
    let whole = fs::read(&object).unwrap();
    fs::write(&object, &whole[..40]).unwrap();

    assert_eq!(sync(&b)["dropbox_pulled"], 0);
    // Its writer sees that it is not whole.
    assert_eq!(sync(&a)["dropbox_pushed"], 1);
    assert_eq!(sync(&b)["dropbox_pulled"], 1);

    assert_eq!(root(&a), root(&b));
    for (file, text) in foreign {
        assert_eq!(fs::read_to_string(inside.join(file)).unwrap(), text);
    }
}

#[test]
fn what_a_removed_device_leaves_late_is_refused_beyond_its_cut() {
    let (a, b, folder) = two();
    let c = Home::init("c");
    enrol(&a, &c, &Scope::Personal, "c", Role::Member);
    add(&c, &folder);
    put(&c, "before", "1");
    sync(&c);
    sync(&a);
    a.run(&["revoke", "c", "--yes", "c"]).expect_code(0);
    sync(&a);
    // It has not heard, and what it left before is still there.
    c.run(&["dropbox", "rm", folder.text()]).expect_code(0);
    put(&c, "after", "2");
    let late = Folder::new();
    add(&c, &late);
    sync(&c);
    for file in late.objects("b.") {
        fs::copy(&file, folder.inside().join(name(&file))).unwrap();
    }

    sync(&b);
    sync(&a);

    for home in [&a, &b] {
        home.run(&["get", "registry:note", "before"]).expect_code(0);
        home.run(&["get", "registry:note", "after"]).expect_code(1);
    }
    assert_eq!(root(&a), root(&b));
}

#[test]
fn many_small_objects_become_one_and_whoever_comes_later_finds_it() {
    let (a, b, folder) = two();
    for n in 0..20 {
        put(&a, "x", &n.to_string());
        sync(&a);
    }
    sync(&a);

    let objects = folder.objects("b.").len();
    assert!(objects < 8, "{objects} objects");
    assert_eq!(folder.objects("r.").len(), 1);
    assert_eq!(sync(&b)["dropbox_pulled"], 20);
    assert_eq!(root(&a), root(&b));
    sync(&a);
    assert!(folder.objects("a.").len() <= 3, "{:?}", folder.objects("a."));
}

#[test]
fn a_folder_that_is_gone_is_named_and_nothing_is_lost() {
    let (a, b, folder) = two();
    let aside = folder.path().with_extension("unplugged");
    fs::rename(folder.path(), &aside).unwrap();
    put(&a, "x", "1");

    a.run(&["sync", "--timeout", "0"]).expect_code(75).says("1 drop box could not be used");
    assert!(!folder.path().exists(), "it is not made anew on another disk");
    let up = a.up(&[]);
    let mut caller = Caller::connect(&a);
    caller.call("sync.pump", json!({}));
    let status = caller.call("sync.status", json!({}))["result"].clone();
    let reason = &status["health"]["reasons"][0];
    assert_eq!((&status["health"]["state"], &reason["kind"]), (&json!("degraded"), &json!("DropboxFailed")));
    assert!(reason["message"].as_str().unwrap().contains(folder.text()), "{reason}");
    fs::rename(&aside, folder.path()).unwrap();
    caller.call("sync.pump", json!({}));
    let status = caller.call("sync.status", json!({}))["result"].clone();
    assert_eq!(status["health"]["state"], "healthy", "{status}");
    assert!(status["dropboxes"][0]["last_push_ms"].is_u64(), "{status}");
    assert_eq!(up.terminate(), 0);
    assert_eq!(sync(&b)["dropbox_pulled"], 1);
}

#[test]
fn a_running_node_leaves_what_is_written_by_itself_also_last_thing() {
    let (a, b, _folder) = two();
    let up = a.up(&[]);
    put(&a, "x", "1");
    assert_eq!(up.terminate(), 0);

    assert_eq!(sync(&b)["dropbox_pulled"], 1);
}

#[test]
fn wrong_places_are_refused_by_name_and_the_list_is_kept() {
    let home = Home::init("a");
    let folder = Folder::new();
    let add = |place: &str| home.run(&["dropbox", "add", place]);

    add("/no/such/folder").expect_code(1).says("the folder is not there").says("plug it in or mount it");
    add("ftp://host/x").expect_code(1).says("is no drop box");
    if !cfg!(feature = "s3") {
        add("s3://bucket/x").expect_code(1).says("--features s3");
    }
    let file = home.path().with_file_name("file");
    fs::write(&file, "x").unwrap();
    add(file.to_str().unwrap()).expect_code(1).says("the folder is not there");
    add(folder.text()).expect_code(0).says("never through a drop box");
    add(&format!("{}/", folder.text())).expect_code(1).says("is a drop box of this space already");
    home.run(&["--space", "acme", "dropbox", "add", folder.text()]).expect_code(1).says("no space called");
    home.run(&["dropbox", "rm", "/elsewhere"]).expect_code(1).says("is no drop box of this space");
    for n in 1..16 {
        let sub = folder.path().join(n.to_string());
        fs::create_dir(&sub).unwrap();
        add(sub.to_str().unwrap()).expect_code(0);
    }
    add(home.path().to_str().unwrap()).expect_code(1).says("at most 16 drop boxes");
    assert_eq!(home.json(&["dropbox"])["dropboxes"].as_array().unwrap().len(), 16);
    home.run(&["dropbox", "rm", folder.text()]).expect_code(0);
    assert_eq!(home.json(&["dropbox", "list"])["dropboxes"].as_array().unwrap().len(), 15);
    assert!(folder.inside().exists(), "what lies there stays");
    fs::write(home.path().join("dropboxes.json"), "{").unwrap();
    home.run(&["status"]).expect_code(1).says("dropboxes.json");
}

#[test]
fn an_organisation_has_a_folder_of_its_own_in_the_same_drop_box() {
    let (a, b, folder) = two();
    a.run(&["space", "create", "acme"]).expect_code(0);
    enrol(&a, &b, &Scope::Shared("acme".into()), "b", Role::Member);
    for home in [&a, &b] {
        home.run(&["--space", "acme", "dropbox", "add", folder.text()]).expect_code(0);
    }
    a.run(&["--space", "acme", "put", "registry:note", "w", "1"]).expect_code(0);
    put(&a, "x", "1");

    sync(&a);
    let taken = sync(&b);

    assert_eq!((&taken["dropboxes"], &taken["dropbox_pulled"]), (&json!(2), &json!(2)), "{taken}");
    b.run(&["--space", "acme", "get", "registry:note", "w"]).expect_code(0);
    b.run(&["get", "registry:note", "w"]).expect_code(1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}
