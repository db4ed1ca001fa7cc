//! Living with it: what a device keeps over restarts, and how it is configured and looked after.

use crate::kin::{Home, pair};

#[test]
fn a_device_that_starts_again_finds_another_where_it_was_last() {
    let (a, b) = (Home::init("a"), Home::init("b"));
    pair(&a, &b);
    let at_a = a.up(&[]);
    let met = b.up(&["--peer", &at_a.listening]);
    a.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    assert_eq!(met.terminate(), 0);
    a.run(&["put", "registry:note", "meanwhile", "1"]).expect_code(0);

    // Nothing tells it where: no multicast, no peer named. The other side knows a port that is gone.
    let _again = b.up(&[]);
    a.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    assert_eq!(b.run(&["get", "registry:note", "meanwhile"]).expect_code(0).stdout, "1\n");
}
