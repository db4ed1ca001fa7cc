//! What cannot be undone takes its name typed once more.

use std::io::{IsTerminal, Write};

use crate::failure::Failure;
use crate::output::Output;

/// Lets through who gave the exact name, by `--yes` or at the terminal.
///
/// `act` says what is about to be done, as in "revoking phone".
pub async fn confirm(act: &str, name: &str, yes: Option<String>, output: &Output) -> Result<(), Failure> {
    let typed = match yes {
        Some(typed) => typed,
        None if output.is_json() || !is_attended() => {
            return Err(Failure::NameNotTyped { act: act.to_owned(), name: name.to_owned() });
        }
        None => ask(act, name).await?,
    };
    check(act, name, typed)
}

fn check(act: &str, name: &str, typed: String) -> Result<(), Failure> {
    if typed == name {
        return Ok(());
    }
    Err(Failure::NameMistyped { act: act.to_owned(), name: name.to_owned(), typed })
}

/// Whether a person is there to be asked.
pub fn is_attended() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

async fn ask(act: &str, name: &str) -> Result<String, Failure> {
    eprint!("{act} cannot be undone.\nType {name} to go on: ");
    // A question that cannot be shown is answered by nobody, and then nothing is done.
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let read = move || std::io::stdin().read_line(&mut line).map(|_| line);
    let read = tokio::task::spawn_blocking(read).await.expect("a read does not panic and is not aborted");
    let line = read.map_err(Failure::StandardInput)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_name_goes_through() {
        assert!(check("revoking phone", "phone", "phone".into()).is_ok());
        for typed in ["", "Phone", "phone ", "yes"] {
            let refused = check("revoking phone", "phone", typed.into());
            assert!(matches!(refused, Err(Failure::NameMistyped { .. })), "{typed:?}");
        }
    }
}
