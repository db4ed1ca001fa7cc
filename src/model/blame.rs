//! Who is at fault when something fails.

/// What every public error answers, so that a shell closes, reports or retries by that alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// This device: its configuration, its disk, its program.
    Local,
    /// The device on the other side broke a rule.
    Peer,
    /// Nobody: networks fail and machines sleep. Try again.
    Environment,
}
