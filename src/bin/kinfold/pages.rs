//! `completions` and `man`: what a shell and a reader of manuals know of this command.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Args;
use crate::failure::Failure;
use crate::output::Output;

/// Writes the completions of a shell to standard output.
pub fn completions(shell: Shell, output: &Output) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "kinfold", &mut text);
    output.line(String::from_utf8_lossy(&text).trim_end())
}

/// Writes a manual page for every command into a directory.
pub fn man(dir: &Path, output: &Output) -> Result<(), Failure> {
    let failed = |source| Failure::ServiceFile { file: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Args::command(), dir).map_err(failed)?;
    output.note(format!(
        "hint: `man -M` takes the directory above one called man1; {} has the pages",
        dir.display()
    ));
    Ok(())
}
