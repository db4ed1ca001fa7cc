//! The settings of a home: `HOME/config.toml`, written by people and by programs.
//!
//! Owns the list of keys, what each may be, the file and its generation. Must never use a setting:
//! whoever runs the node reads [`Settings`] and acts on them. A file is read whole or not at all: an
//! unknown key or a value that does not fit is an error that names its line, never a default.
//!
//! Every change made here raises `generation`, so a program that read generation 7 can ask for a
//! change of exactly that ([`ConfigError::GenerationConflict`] otherwise). Changes are serial by a
//! kernel lock on `HOME/config.lock` and replace the file whole, so a reader sees one generation or
//! the next. Read [`keys`] for what there is to set.

mod document;
mod error;
mod file;
pub mod keys;
mod settings;

pub use error::{ConfigError, SettingProblem};
pub use file::ConfigFile;
pub use keys::{KEYS, Key, Kind, TakesEffect};
pub use settings::{Setting, Settings};

/// Longest file that is read: hundreds of times what the keys there are can come to, comments included.
pub const CONFIG_BYTES_MAX: usize = 256 * 1024;

/// Most entries of a list: as many peers as a space has members.
pub const LIST_ITEMS_MAX: usize = 128;

/// Longest text of a value: a host name has at most 253 bytes, a port six with its colon.
pub const TEXT_BYTES_MAX: usize = 260;
