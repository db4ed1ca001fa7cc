//! Nothing but ciphertext is on disk: a word that went through two nodes is in no byte of their homes.

use serde_json::json;

use crate::crash::bytes_below;
use crate::kin::{Caller, Home, pair};

#[test]
fn a_word_that_was_written_synced_and_kept_is_in_no_byte_of_a_home() {
    let here = Home::empty();
    // Not in the program, and another one each time.
    let canary = blake3::hash(here.path().as_os_str().as_encoded_bytes()).to_hex()[..20].to_owned();
    let word = |what: &str| format!("{what}-{canary}-{what}");
    here.run(&["init", "--name", &word("laptop")]).expect_code(0);
    let there = Home::init(&word("desktop"));
    let first = here.up(&[]);
    let second = there.up(&["--peer", &first.listening]);
    pair(&here, &there);

    // Enough for an index snapshot on each side, of every tier, some of it removed again.
    let lines: String = (0..3_000)
        .map(|n| {
            let (id, value) = (word(&format!("id{n}")), word("value"));
            let surface = ["registry:file", "knowledge", "conversation"][n % 3];
            let line = json!({"surface": surface, "payload": {"id": id, "conversation_id": id, "value": value,
                "deleted": n % 30 == 0}});
            format!("{line}\n")
        })
        .collect();
    here.run_with(&["import", "-"], lines.as_bytes()).expect_code(0);
    here.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    there
        .run(&["put", &format!("registry:{canary}"), &word("key"), &format!("{:?}", word("later"))])
        .expect_code(0);
    there.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    let status = Caller::connect(&there).call("sync.status", json!({})).to_string();
    assert_eq!(first.terminate(), 0);
    // The other side is killed, and what it has not sealed stays behind as drafts.
    there.run(&["put", "registry:note", &word("draft"), "1"]).expect_code(0);
    second.kill();

    assert!(status.contains(&canary), "the devices' names are readable inside: {status}");
    let exported = there.run(&["export"]).expect_code(0).stdout;
    assert!(exported.contains(&word("draft")) && exported.contains(&word("later")));
    for home in [&here, &there] {
        let files = bytes_below(&home.path());
        assert!(files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > 100_000);
        for (path, bytes) in files {
            let found = bytes.windows(canary.len()).position(|window| window == canary.as_bytes());
            assert_eq!(found, None, "{path}");
        }
    }
}
