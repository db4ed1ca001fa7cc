//! What a lease needs of a place to be kept in: read a value, and replace it if nobody else has.

use std::error::Error;
use std::fmt;

use bytes::Bytes;
use futures_core::future::BoxFuture;
use thiserror::Error;

/// Which state of a cell was read, as its store names it.
///
/// No two states of one cell have the same version, also after others came between: every value
/// written holds a number of its own ([`Record`](super::Record)).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// The ETag of HTTP, which follows from the content.
    pub e_tag: Option<String>,
    /// A number of the store's own, where it has one.
    pub number: Option<String>,
}

/// A cell's value as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    /// Its bytes.
    pub bytes: Bytes,
    /// Which state that is.
    pub version: Version,
}

/// Why a cell was not read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CellError {
    /// The cell is not in the state that was expected. Nothing was written by this attempt, but an
    /// attempt of the store's own client before it may have been.
    #[error("the lease was changed by somebody else meanwhile")]
    Changed,
    /// No answer came: a write may have happened, or happen later.
    #[error("no answer came from where the leases are kept")]
    Unanswered(#[source] Box<dyn Error + Send + Sync>),
    /// The store refused, or cannot do what is asked of it. Nothing was written.
    #[error("where the leases are kept refuses")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
    /// A cell longer than any lease is.
    #[error("a lease of {found} bytes is longer than the limit of {limit}")]
    TooLong {
        /// Bytes found.
        found: u64,
        /// The limit.
        limit: usize,
    },
}

/// What reading or writing a cell comes to.
pub type CellAnswer<'a, T> = BoxFuture<'a, Result<T, CellError>>;

/// Named cells, each replaced as a whole and only in the state that the writer has seen.
///
/// Reads and writes of one cell are linearizable: after a write was answered, every read shows it or
/// a later one.
pub trait Cells: Send + Sync + fmt::Debug {
    /// The cell's value; `None` where none was ever written.
    ///
    /// # Errors
    /// [`CellError`], never [`CellError::Changed`].
    fn read<'a>(&'a self, name: &'a str) -> CellAnswer<'a, Option<Cell>>;

    /// Replaces the value if the cell is still in the state `expected`, `None` for a cell that is not
    /// there; durable when answered.
    ///
    /// # Errors
    /// [`CellError`].
    fn write<'a>(&'a self, name: &'a str, bytes: Bytes, expected: Option<&'a Version>) -> CellAnswer<'a, ()>;
}

/// Greatest value of a cell in bytes: a record with the longest names, twice.
pub const CELL_BYTES_MAX: usize = 4 * 1024;
