//! Byte forms: ops, batch bodies, acks, messages, bundles, pairing. The only module that names bincode.
//!
//! Every decoder takes bytes whose length a caller has bounded, demands that all of them are
//! used, and allocates no more than a small multiple of what it was given. What is hashed or
//! signed is the bytes as received; nothing here is decoded and encoded again for that. Layouts
//! are in `manual/formats.md`; golden vectors in `tests/data` pin them.

pub mod ack;
pub mod body;
pub mod bundle;
pub mod checkpoint;
pub mod codec;
pub mod message;
pub mod op;
pub mod pairing;
pub mod verify;
pub mod welcome;

pub use ack::{Ack, AckError, AckFields};
pub use body::{BodyError, BodyReader, BodyWriter, FrameView};
pub use bundle::{BundleError, BundleHead};
pub use codec::DecodeError;
pub use message::{AckFrame, Hello, HostMessage, Message, MessageError, SpaceHello};
pub use op::{OpProblem, OpView, Original, Pred, REISSUE};
pub use pairing::{PairFrame, PairFrameError};
pub use verify::{
    LeafPath, RowHead, RowName, VerifyAbout, VerifyAnswer, VerifyError, VerifyQuestion, VerifySaid,
    VerifyUnable,
};
pub use welcome::{Welcome, WelcomeError};
