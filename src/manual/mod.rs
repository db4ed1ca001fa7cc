//! The manual: what the code stands on, in pages of its own.
//!
//! [`architecture`] says which part owns what and how an op travels through it. [`sync`] is the
//! conversation between two devices, [`conversations`] what is made of turns, [`conflicts`] how they
//! are settled, [`past`] how earlier states come back. [`formats`] has every byte that is stored,
//! hashed, signed or sent. [`control`] is how programs speak to a running node, [`interop`] how all
//! this compares with another implementation.
//! [`lease`] says who runs an agent and who says so, [`dispatch`] how work is done under a lease.
//! [`threats`] says what is defended and by which test, and what is not; [`assumptions`] what
//! the promises rest on. [`decisions`] gives the reasons for what could have been otherwise, and
//! [`glossary`] the words.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("sync.md")]
pub mod sync {}

#[doc = include_str!("conversations.md")]
pub mod conversations {}

#[doc = include_str!("conflicts.md")]
pub mod conflicts {}

#[doc = include_str!("past.md")]
pub mod past {}

#[doc = include_str!("interop.md")]
pub mod interop {}

#[doc = include_str!("formats.md")]
pub mod formats {}

#[doc = include_str!("control.md")]
pub mod control {}

#[doc = include_str!("dispatch.md")]
pub mod dispatch {}

#[doc = include_str!("lease.md")]
pub mod lease {}

#[doc = include_str!("threats.md")]
pub mod threats {}

#[doc = include_str!("assumptions.md")]
pub mod assumptions {}

#[doc = include_str!("decisions.md")]
pub mod decisions {}

#[doc = include_str!("glossary.md")]
pub mod glossary {}
