//! `service`: a node that is always there, started by systemd or launchd.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use kinfold::control::Client;
use kinfold::node::Node;
use serde_json::json;

use crate::args::{ServiceArgs, ServiceCommand};
use crate::failure::Failure;
use crate::output::{Output, Tone};

/// Who starts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Manager {
    /// systemd, for this user
    Systemd,
    /// launchd, for this user while logged in: macOS asks for the local network
    LaunchdAgent,
    /// launchd, from the start of the machine: needs root to install, the local network is open to it
    LaunchdDaemon,
}

impl Manager {
    const fn of_this_machine() -> Self {
        if cfg!(target_os = "macos") { Self::LaunchdAgent } else { Self::Systemd }
    }

    const fn file_name(self) -> &'static str {
        match self {
            Self::Systemd => "kinfold.service",
            Self::LaunchdAgent | Self::LaunchdDaemon => "org.kinfold.kinfold.plist",
        }
    }

    /// Where its files are, below a user's home and configuration.
    fn dir(self, variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
        let home = || variable("HOME");
        match self {
            Self::Systemd => {
                let config = variable("XDG_CONFIG_HOME").or_else(|| home().map(|home| home.join(".config")));
                config.map(|config| config.join("systemd/user"))
            }
            Self::LaunchdAgent => home().map(|home| home.join("Library/LaunchAgents")),
            Self::LaunchdDaemon => Some("/Library/LaunchDaemons".into()),
        }
    }

    /// What makes the manager take up what was installed.
    fn start(self, file: &Path) -> Vec<Vec<String>> {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let file = file.display().to_string();
        match self {
            Self::Systemd => {
                vec![words("systemctl --user daemon-reload"), words("systemctl --user enable --now kinfold")]
            }
            Self::LaunchdAgent | Self::LaunchdDaemon => {
                vec![["launchctl", "load", "-w"].map(str::to_owned).into_iter().chain([file]).collect()]
            }
        }
    }

    fn stop(self, file: &Path) -> Vec<Vec<String>> {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let file = file.display().to_string();
        match self {
            Self::Systemd => vec![words("systemctl --user disable --now kinfold")],
            Self::LaunchdAgent | Self::LaunchdDaemon => {
                vec![["launchctl", "unload", "-w"].map(str::to_owned).into_iter().chain([file]).collect()]
            }
        }
    }

    fn note(self) -> &'static str {
        match self {
            Self::Systemd => "hint: `loginctl enable-linger` keeps it running while you are not logged in",
            Self::LaunchdAgent => {
                "hint: macOS asks once whether kinfold may find devices on the local network; allow it. Where no \
                 question appears, or after an update: System Settings → Privacy & Security → Local Network. \
                 `kinfold doctor` says whether it is allowed; --for launchd-daemon needs no permission"
            }
            Self::LaunchdDaemon => {
                "hint: as a daemon it runs from the start of the machine, and needs no permission"
            }
        }
    }
}

/// What the service runs.
struct Service {
    program: PathBuf,
    home: PathBuf,
    /// Whose files the home holds, for a daemon.
    user: String,
}

pub async fn run(home: &Path, args: ServiceArgs, output: &Output) -> Result<(), Failure> {
    let manager = args.manager.unwrap_or(Manager::of_this_machine());
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => manager.dir(|name| std::env::var_os(name).map(PathBuf::from)).ok_or(Failure::NoHome)?,
    };
    let file = dir.join(manager.file_name());
    // Files elsewhere are for somebody else to take up.
    let is_real = args.dir.is_none();
    match args.command {
        ServiceCommand::Install { print } => {
            let text = text(manager, &service(home)?);
            if print {
                return output.line(text.trim_end());
            }
            Node::device_in(home)?;
            install(&dir, &file, &text)?;
            if is_real {
                manager.start(&file).iter().try_for_each(|command| run_manager(command))?;
            }
            told(output, "installed", &file)?;
            output.note(manager.note());
            Ok(())
        }
        ServiceCommand::Remove => {
            if !file.exists() {
                return Err(Failure::NotInstalled { file });
            }
            if is_real {
                manager.stop(&file).iter().try_for_each(|command| run_manager(command))?;
            }
            std::fs::remove_file(&file)
                .map_err(|source| Failure::ServiceFile { file: file.clone(), source })?;
            told(output, "removed", &file)
        }
        ServiceCommand::Status => status(home, &file, output).await,
    }
}

async fn status(home: &Path, file: &Path, output: &Output) -> Result<(), Failure> {
    let is_installed = file.exists();
    let is_running = Client::connect(home).await?.is_some();
    if output.is_json() {
        return output.json(&json!({ "installed": is_installed, "file": file, "running": is_running }));
    }
    let shown = |is: bool, text: &str| output.paint(if is { Tone::Good } else { Tone::Warn }, text);
    let installed = if is_installed { "installed" } else { "not installed" };
    output.line(format!("{} ({})", shown(is_installed, installed), file.display()))?;
    let running = if is_running { "a node runs in this home" } else { "no node runs in this home" };
    output.line(shown(is_running, running))
}

fn service(home: &Path) -> Result<Service, Failure> {
    let program = std::env::current_exe().map_err(|source| Failure::Runtime { source })?;
    let home = std::path::absolute(home).map_err(|source| Failure::Runtime { source })?;
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    Ok(Service { program, home, user: user.map_or_else(|| "root".to_owned(), |user| user.name) })
}

fn install(dir: &Path, file: &Path, text: &str) -> Result<(), Failure> {
    let write = || {
        std::fs::create_dir_all(dir)?;
        std::fs::write(file, text)
    };
    write().map_err(|source: io::Error| Failure::ServiceFile { file: file.to_owned(), source })
}

fn run_manager(command: &[String]) -> Result<(), Failure> {
    let text = command.join(" ");
    let status = Command::new(&command[0]).args(&command[1..]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Failure::Manager { command: text, source: None }),
        Err(source) => Err(Failure::Manager { command: text, source: Some(source) }),
    }
}

fn told(output: &Output, what: &str, file: &Path) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&json!({ what: file }));
    }
    output.line(format!("{} {}", output.paint(Tone::Good, what), file.display()))
}

fn text(manager: Manager, service: &Service) -> String {
    match manager {
        Manager::Systemd => unit(service),
        Manager::LaunchdAgent | Manager::LaunchdDaemon => plist(manager, service),
    }
}

/// What a user's manager can enforce without privileges. What needs a namespace of its own
/// (`ProtectSystem`, `PrivateTmp` and so on) is left out: it would hide the users of other processes,
/// and the control socket asks who is calling.
fn unit(service: &Service) -> String {
    format!(
        "\
[Unit]
Description=kinfold: your devices, one state
Documentation=man:kinfold(1)
StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
Type=notify
NotifyAccess=main
ExecStart={} --home {} up
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2
TimeoutStopSec=15
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=default.target
",
        quoted(&service.program),
        quoted(&service.home)
    )
}

/// A path as systemd takes it in a command line.
fn quoted(path: &Path) -> String {
    let mut text = String::from("\"");
    for c in path.to_string_lossy().chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' | '$' => text.extend([c, c]),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

fn plist(manager: Manager, service: &Service) -> String {
    let mut keys = String::new();
    let mut key = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(keys, "\t<key>{name}</key>\n\t{value}");
    };
    let string = |text: &str| format!("<string>{}</string>", escaped(text));
    let program = service.program.to_string_lossy();
    let home = service.home.to_string_lossy();
    let words = [&*program, "--home", &*home, "up"].map(|word| format!("\t\t{}\n", string(word))).concat();
    key("Label", &string("org.kinfold.kinfold"));
    key("ProgramArguments", &format!("<array>\n{words}\t</array>"));
    key("RunAtLoad", "<true/>");
    key("KeepAlive", "<dict>\n\t\t<key>SuccessfulExit</key>\n\t\t<false/>\n\t</dict>");
    key("ThrottleInterval", "<integer>10</integer>");
    key("ExitTimeOut", "<integer>15</integer>");
    key("Umask", "<integer>63</integer>");
    if manager == Manager::LaunchdDaemon {
        key("UserName", &string(&service.user));
    } else {
        // Ties the permission for the local network to the bundle that is named inside the program.
        key("AssociatedBundleIdentifiers", &string("org.kinfold.kinfold"));
        key("ProcessType", &string("Background"));
    }
    key("StandardOutPath", &string("/dev/null"));
    key("StandardErrorPath", &string("/dev/null"));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\">\n<dict>\n{keys}</dict>\n</plist>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_and_the_plists_are_pinned() {
        let service = Service {
            program: "/usr/local/bin/kinfold".into(),
            home: "/home/ann/my 100% \"home\" <&>".into(),
            user: "ann".into(),
        };
        for (manager, name) in [
            (Manager::Systemd, "kinfold.service"),
            (Manager::LaunchdAgent, "agent.plist"),
            (Manager::LaunchdDaemon, "daemon.plist"),
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/service").join(name);
            let pinned = std::fs::read_to_string(&path).expect("the pinned text is there");
            assert_eq!(text(manager, &service), pinned, "{}", path.display());
        }
    }

    #[test]
    fn the_program_says_why_it_wants_the_local_network() {
        let plist = include_str!("Info.plist");

        for words in
            ["org.kinfold.kinfold", "NSLocalNetworkUsageDescription", "_kinfold._udp", "_kinfold-pair._udp"]
        {
            assert!(plist.contains(&format!(">{words}<")), "{words}");
        }
    }

    #[test]
    fn files_go_where_the_manager_looks() {
        let dir = |manager: Manager, set: &[(&str, &str)]| {
            manager.dir(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| PathBuf::from(value)))
        };

        assert_eq!(dir(Manager::Systemd, &[("HOME", "/h")]), Some("/h/.config/systemd/user".into()));
        assert_eq!(
            dir(Manager::Systemd, &[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]),
            Some("/c/systemd/user".into())
        );
        assert_eq!(dir(Manager::LaunchdAgent, &[("HOME", "/h")]), Some("/h/Library/LaunchAgents".into()));
        assert_eq!(dir(Manager::LaunchdDaemon, &[]), Some("/Library/LaunchDaemons".into()));
        assert_eq!(dir(Manager::Systemd, &[]), None);
    }
}
