//! The device's directory: where it is, and `kinfold init`.

use std::path::{Path, PathBuf};

use kinfold::model::DeviceId;
use kinfold::node::Node;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{Output, Tone};

/// The directory named, or the platform's: `~/Library/Application Support/kinfold` on macOS,
/// `%APPDATA%\kinfold` on Windows, `$XDG_DATA_HOME/kinfold` or `~/.local/share/kinfold` elsewhere.
pub fn resolve(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    match named {
        Some(home) => Ok(home),
        None => platform(|name| std::env::var_os(name).map(PathBuf::from)).ok_or(Failure::NoHome),
    }
}

/// Makes a device in an empty or absent directory.
pub fn init(home: &Path, name: Option<String>, output: &Output) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Report<'a> {
        device_id: String,
        name: &'a str,
        home: &'a Path,
    }
    let made = make(home, name)?;
    if output.is_json() {
        let device_id = made.device.to_string();
        return output.json(&Report { device_id, name: &made.name, home });
    }
    output.line(format!("{} {} in {}", output.paint(Tone::Good, "made"), made.name, home.display()))?;
    output.line(format!("device {}", made.device))?;
    output.note("hint: `kinfold invite` here and `kinfold join CODE` on the other device pair the two");
    Ok(())
}

/// A new device.
pub struct Made {
    pub device: DeviceId,
    pub name: String,
}

/// Makes a device, called like the host where no name is given.
pub fn make(home: &Path, name: Option<String>) -> Result<Made, Failure> {
    let name = name.unwrap_or_else(host_name);
    let device = Node::init(home, &name)?;
    Ok(Made { device, name })
}

fn platform(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|path| path.is_absolute());
    let data = if cfg!(target_os = "macos") {
        set("HOME").map(|home| home.join("Library/Application Support"))
    } else if cfg!(windows) {
        set("APPDATA")
    } else {
        set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")))
    };
    data.map(|data| data.join("kinfold"))
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    // `laptop.local` and `laptop.example.org` are called laptop at home.
    let short = name.as_deref().and_then(|name| name.split('.').next()).filter(|name| !name.is_empty());
    short.unwrap_or("device").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_home_follows_the_platform() {
        let place = |set: &[(&str, &str)]| {
            platform(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| PathBuf::from(value)))
        };

        assert_eq!(place(&[("HOME", "/h")]), Some("/h/.local/share/kinfold".into()));
        assert_eq!(place(&[("HOME", "/h"), ("XDG_DATA_HOME", "/x")]), Some("/x/kinfold".into()));
        assert_eq!(
            place(&[("HOME", "/h"), ("XDG_DATA_HOME", "relative")]),
            Some("/h/.local/share/kinfold".into())
        );
        assert_eq!(place(&[]), None);
    }
}
