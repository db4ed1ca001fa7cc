//! Why settings are not read or not changed.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::{CONFIG_BYTES_MAX, LIST_ITEMS_MAX, TEXT_BYTES_MAX};
use crate::model::Blame;

/// Settings that cannot be read or changed. Nothing was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not TOML.
    #[error("{}not TOML: {problem}", place(*.line))]
    NotToml {
        /// Which line, from 1.
        line: Option<usize>,
        /// What the parser says.
        problem: String,
    },
    /// A key or value that cannot be.
    #[error("{}{problem}", place(*.line))]
    Setting {
        /// Which line of the file, from 1; `None` where the value was given by a caller.
        line: Option<usize>,
        /// What is wrong.
        problem: SettingProblem,
    },
    /// The settings have been changed since they were read.
    #[error("the settings are at generation {current}, not {expected}; read them again")]
    GenerationConflict {
        /// The generation that was to be changed.
        expected: u64,
        /// The one that is there.
        current: u64,
    },
    /// A patch that is not an object.
    #[error("a patch is a JSON object like {{\"network\": {{\"mdns\": false}}}}")]
    PatchForm,
    /// The file is too long.
    #[error("config.toml has {found} bytes, more than {CONFIG_BYTES_MAX}")]
    TooLong {
        /// Its length.
        found: u64,
    },
    /// The system refused.
    #[error("{path:?} cannot be used")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with a key or its value.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SettingProblem {
    /// No key is called that.
    #[error("no setting {key:?}{}", .nearest.map(|near| format!("; did you mean {near}?")).unwrap_or_default())]
    UnknownKey {
        /// The name.
        key: String,
        /// The key that may have been meant.
        nearest: Option<&'static str>,
    },
    /// A value of another kind.
    #[error("{key} is {expected}, not {found}")]
    WrongKind {
        /// The key.
        key: &'static str,
        /// What it may be.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A value outside its range.
    #[error("{key} is {expected}, not {found}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// What it may be.
        expected: String,
        /// What was found.
        found: i64,
    },
    /// A text that is none of those it may be.
    #[error("{key} is {expected}, not {found:?}")]
    NotAllowed {
        /// The key.
        key: &'static str,
        /// What it may be.
        expected: String,
        /// What was found, cut to 80 characters.
        found: String,
    },
    /// A list with too many entries, or a text that is too long.
    #[error("{key} has {found}, more than a list of {LIST_ITEMS_MAX} or a text of {TEXT_BYTES_MAX} bytes")]
    TooMuch {
        /// The key.
        key: &'static str,
        /// How many.
        found: usize,
    },
    /// A section that is written as a value.
    #[error("{section} is a section with keys of its own, not {found}")]
    NotASection {
        /// The section.
        section: String,
        /// What was found.
        found: String,
    },
    /// The generation is counted, not set; in a file it is a whole number.
    #[error("generation counts the changes and cannot be set{}", .found.as_ref().map(|found| format!(" to {found}")).unwrap_or_default())]
    Generation {
        /// What stands in the file instead of a number.
        found: Option<String>,
    },
}

impl ConfigError {
    /// Who is to change something.
    pub const fn blame(&self) -> Blame {
        Blame::Local
    }

    /// The same, of a value that a caller gave and no file holds.
    pub(super) fn without_line(self) -> Self {
        match self {
            Self::Setting { problem, .. } => Self::Setting { line: None, problem },
            other => other,
        }
    }
}

impl From<SettingProblem> for ConfigError {
    fn from(problem: SettingProblem) -> Self {
        Self::Setting { line: None, problem }
    }
}

fn place(line: Option<usize>) -> String {
    line.map(|line| format!("config.toml, line {line}: ")).unwrap_or_default()
}
