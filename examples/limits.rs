//! What this machine can do at best: the figures that every benchmark is to be read against.
//!
//! `cargo run --release --example limits`

#[path = "../benches/shared/limits.rs"]
mod limits;

fn main() {
    limits::print();
}
