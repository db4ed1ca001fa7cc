//! The drop box: a folder or bucket that devices put sealed batches into for others to find later.
//!
//! Owns the place, the names of objects, what may be concluded from a listing, and how an object is
//! read and written. Must never decide who is believed: what an object holds goes into the engine
//! like any carrier's load. An object is one bundle (`wire::bundle`); its name says what is inside,
//! so that a reader takes only what it lacks, and ends in the hash of all its bytes, so that a file
//! that is partial, damaged, or another's is known for that. Objects never change; nothing is locked.
//! Read `manual/sync.md` §10.

mod error;
mod inventory;
mod name;
mod place;
mod shelf;

pub use error::{DropboxError, PlaceError};
pub use inventory::{Inventory, OBJECTS_MAX, Object};
pub use name::{Kind, LogTag, ObjectName, WriterTag};
pub use place::Place;
pub use shelf::{OBJECT_BYTES_MAX, Shelf, object};
