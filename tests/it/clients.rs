//! The clients in other languages, as their users run them. Without the language they are skipped.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::kin::{Caller, Ended, Home, run};

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/clients")
}

/// A command of that language; nothing, and a reason, where it is not installed.
pub fn interpreter(name: &str) -> Option<Command> {
    let is_there =
        Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !is_there {
        println!("skipped: {name} is not installed");
        return None;
    }
    let mut command = Command::new(name);
    command.current_dir(clients()).env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

#[track_caller]
fn passes(ended: Ended) {
    assert_eq!((ended.code, ended.stdout.trim()), (0, "done"), "{ended:?}");
}

#[test]
fn the_python_client_calls_is_refused_and_follows() {
    let Some(mut python) = interpreter("python3") else { return };
    let home = Home::init("a");
    let _daemon = home.up(&[]);

    passes(run(python.arg("-c").arg(PYTHON).arg(home.path()), b""));
}

#[test]
fn the_node_client_calls_is_refused_and_follows() {
    let Some(mut node) = interpreter("node") else { return };
    let home = Home::init("a");
    let _daemon = home.up(&[]);

    passes(run(node.args(["--input-type=module", "-e", NODE]).arg(home.path()), b""));
}

#[test]
fn a_client_that_is_busy_while_much_happens_misses_nothing() {
    let Some(mut node) = interpreter("node") else { return };
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut busy = node
        .args(["--input-type=module", "-e", BUSY])
        .arg(home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut says = BufReader::new(busy.stdout.take().unwrap()).lines();
    assert_eq!(says.next().unwrap().unwrap(), "busy");
    let mut caller = Caller::connect(&home);
    for round in 0..3 {
        let op = |n: u64| json!({"surface": "registry:note", "key": format!("k{n}"), "payload": round});
        let ops: Vec<Value> = (0..10_000).map(op).collect();
        caller.call("sync.append_many", json!({ "ops": ops }));
    }
    busy.stdin.take().unwrap().write_all(b"go on").unwrap();

    assert_eq!(says.next().unwrap().unwrap(), "30000 in order");
    assert!(busy.wait().unwrap().success());
}

const PYTHON: &str = r#"
import sys
from kinfold_client import Client, Refused, Disconnected

def refused(node, method, **params):
    try:
        node.call(method, **params)
    except Refused as error:
        return error
    raise SystemExit(f"{method} was not refused")

for websocket in (False, True):
    with Client(sys.argv[1], websocket=websocket) as node:
        assert node.call("node.version")["name"] == "kinfold"
        assert node.call("rpc.discover")["openrpc"].startswith("1.3.")
        error = refused(node, "sync.get", surface="nowhere", id="a")
        assert (error.kind, error.blame, error.code) == ("UnknownSurface", "local", -32000), error.data
        assert "sync.status" in refused(node, "sync.statsu").hint
        changes = node.subscribe(surface="registry:note")
        op = node.call("sync.append", surface="registry:note", key="a", payload={"text": "gr\u00fc\u00df \U0001f980"})
        change = next(changes)
        assert (change["seq"], change["payload"]["text"]) == (op["seq"], "gr\u00fc\u00df \U0001f980"), change
        big = "x" * 60000
        node.call("sync.append", surface="registry:note", key="big", payload=big)
        assert next(changes)["payload"] == big
        bookmark = changes.bookmark
        changes.close()
        for n in range(3):
            node.call("sync.append", surface="registry:note", key="b", payload=n)
        changes = node.subscribe(surface="registry:note", after=bookmark)
        assert [next(changes)["payload"] for _ in range(3)] == [0, 1, 2]
        # As if it had fallen behind: it goes on by itself.
        changes._notices.put({"method": "sync.lagged", "params": {"resume_after": changes.bookmark}})
        node.call("sync.append", surface="registry:note", key="b", payload="after")
        while next(changes)["payload"] != "after":
            pass
    assert list(changes) == []
    try:
        node.call("node.version")
        raise SystemExit("a closed client answers")
    except Disconnected:
        pass
print("done")
"#;

const NODE: &str = r#"
import assert from "node:assert/strict";
import { Client, Refused, Disconnected } from "./kinfold-client.mjs";

const home = process.argv.at(-1);
for (const websocket of [false, true]) {
  const node = await Client.connect(home, { websocket });
  assert.equal((await node.call("node.version")).name, "kinfold");
  const refused = await node.call("sync.get", { surface: "nowhere", id: "a" }).catch((error) => error);
  assert.ok(refused instanceof Refused);
  assert.deepEqual([refused.kind, refused.blame, refused.code], ["UnknownSurface", "local", -32000]);
  assert.match((await node.call("sync.statsu").catch((error) => error)).hint, /sync.status/);
  const changes = await node.subscribe({ surface: "registry:note" });
  const append = (payload) => node.call("sync.append", { surface: "registry:note", key: "a", payload });
  const op = await append({ text: "grüß 🦀" });
  const { value } = await changes.next();
  assert.deepEqual([value.seq, value.payload.text], [op.seq, "grüß 🦀"]);
  const big = "x".repeat(60000);
  await append(big);
  assert.equal((await changes.next()).value.payload, big);
  const { bookmark } = changes;
  await changes.return();
  for (const n of [0, 1, 2]) await append(n);
  const again = await node.subscribe({ surface: "registry:note", after: bookmark });
  for (const n of [0, 1, 2]) assert.equal((await again.next()).value.payload, n);
  node.close();
  assert.ok((await again.next()).done);
  assert.ok((await node.call("node.version").catch((error) => error)) instanceof Disconnected);
}
console.log("done");
"#;

/// Subscribes, does nothing until it is told to go on, and then counts.
const BUSY: &str = r#"
import { readSync } from "node:fs";
import { Client } from "./kinfold-client.mjs";

const node = await Client.connect(process.argv.at(-1));
const changes = await node.subscribe({ surface: "registry:note" });
console.log("busy");
readSync(0, Buffer.alloc(8));
let last = 0;
while (last < 30000) {
  const { value } = await changes.next();
  if (value.seq !== last + 1) throw new Error(`${value.seq} follows ${last}`);
  last = value.seq;
}
console.log(`${last} in order`);
node.close();
"#;
