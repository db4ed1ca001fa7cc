//! The manual: what the code stands on, in pages of its own.
//!
//! [`formats`] has every byte that is stored, hashed, signed or sent.

#[doc = include_str!("formats.md")]
pub mod formats {}
