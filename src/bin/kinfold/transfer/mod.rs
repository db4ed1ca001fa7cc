//! `import` and `export`: everything as JSON lines.

mod export;
mod import;
mod reader;

pub use export::run as export;
pub use import::run as import;
