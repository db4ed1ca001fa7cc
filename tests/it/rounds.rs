//! Rounds with devices that are named.

use serde_json::{Value, json};

use crate::kin::{Caller, Home, pair};

#[test]
fn a_round_with_a_device_that_is_named_is_with_that_one_alone() {
    let homes = ["desk", "laptop", "phone"].map(Home::init);
    let [desk, laptop, phone] = &homes;
    pair(desk, laptop);
    pair(desk, phone);
    let (at_laptop, at_phone) = (laptop.up(&[]), phone.up(&[]));
    let _desk = desk.up(&["--peer", &at_laptop.listening, "--peer", &at_phone.listening]);
    desk.run(&["put", "registry:note", "a", "1"]).expect_code(0);
    desk.run(&["wait", "--on", "2", "--timeout", "100s"]).expect_code(0);

    let by_name = desk.json(&["sync", "laptop"]);
    let by_start = desk.json(&["sync", &at_phone.device[..5], "laptop", "phone"]);
    let with_all = desk.json(&["sync"]);

    assert_eq!((&by_name["peers"], &by_name["absent"]), (&json!(1), &json!([])), "{by_name}");
    assert_eq!(by_start["peers"], 2, "the phone counts once: {by_start}");
    assert_eq!(with_all["peers"], 2);
    desk.run(&["sync", "latpop"]).expect_code(1).says("did you mean laptop?");
    desk.run(&["sync", "desk"]).expect_code(1).says("one end of every round");
    let mut caller = Caller::connect(desk);
    let called = caller.call("sync.pump", json!({"peers": ["phone"]}));
    assert_eq!(called["result"]["peers"], 1, "{called}");
    assert_eq!(kind(&mut caller, json!({"peers": ["nobody"]})), "UnknownDevice");
    assert_eq!(kind(&mut caller, json!({"peers": ["desk"]})), "OwnPeer");
    assert_eq!(kind(&mut caller, json!({"peers": vec!["phone"; 1_000]})), "TooManyPeers");
}

#[test]
fn a_device_that_is_named_and_away_is_dialled_and_then_told() {
    let (desk, laptop) = (Home::init("desk"), Home::init("laptop"));
    pair(&desk, &laptop);
    let at_laptop = laptop.up(&[]);
    let at_desk = desk.up(&["--peer", &at_laptop.listening]);
    laptop.run(&["put", "registry:note", "a", "1"]).expect_code(0);
    laptop.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    // A node of the moment finds it where it was last.
    assert_eq!(at_desk.terminate(), 0);
    let found = desk.json(&["sync", "laptop"]);
    assert_eq!((&found["peers"], &found["absent"]), (&json!(1), &json!([])), "{found}");
    let _desk = desk.up(&[]);
    let device = at_laptop.device.clone();
    assert_eq!(at_laptop.terminate(), 0);
    let away = desk.run(&["--json", "sync", "laptop"]).expect_code(75);
    let round: Value = serde_json::from_str(&away.stdout).expect("the round is told all the same");

    assert_eq!((&round["peers"], &round["absent"]), (&json!(0), &json!([device])), "{round}");
    desk.run(&["sync", "laptop"]).expect_code(75).says("not reached: ");
}

fn kind(caller: &mut Caller, params: Value) -> String {
    let answer = caller.call("sync.pump", params);
    answer["error"]["data"]["kind"].as_str().unwrap_or_else(|| panic!("no error: {answer}")).to_owned()
}
