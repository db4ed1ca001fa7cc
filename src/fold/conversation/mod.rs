//! Conversations: turns as their payloads say them, and the sequence a model can go on from.
//!
//! Owns what a payload on the surface `conversation` means: [`Turn`], and why one is none
//! ([`TurnProblem`]). A transcript is every turn in the total order, as it was recorded. [`resume`]
//! makes of it a sequence that chat-completion APIs accept, and says what it had to change
//! ([`Repair`]). Both are functions of the turns alone, so equal on every device that holds the same
//! ops. Must never fail: whatever a device has recorded, there is a transcript and a sequence. Read
//! `manual/conversations.md` for the rules with their reasons.

mod join;
mod resume;
#[cfg(test)]
mod tests;
mod turn;

pub use resume::{Message, Recorded, Repair, Resume, resume};
pub use turn::{Call, Content, Role, Turn, TurnProblem};
