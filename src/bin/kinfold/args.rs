//! What can be typed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use kinfold::control::params::{RoleParam, ScopeParam};
use kinfold::model::{AgentId, RunId};

use crate::service::Manager;

/// Your devices, one state: peer-to-peer sync without a server.
#[derive(Debug, Parser)]
#[command(name = "kinfold", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Args {
    /// The device's directory [default: the platform's data directory]
    #[arg(long, global = true, env = "KINFOLD_HOME", value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Writes JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// What is told of the inside on standard error: a level, or a filter as `kinfold::net=debug`
    #[arg(long, global = true, env = "KINFOLD_LOG", value_name = "FILTER", value_parser = log_filter)]
    pub log: Option<String>,
    /// Which space: personal, or an organisation's name [default: personal]
    #[arg(long, global = true, value_name = "SPACE", value_parser = scope)]
    pub space: Option<ScopeParam>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a device: identity and personal space
    Init(Init),
    /// Runs the node in the foreground until Ctrl-C or SIGTERM
    Up(Up),
    /// Shows a code that lets another device into a space
    Invite(Invite),
    /// Joins with the code or link that another device shows
    Join(Join),
    /// Sets a row, or states a fact
    Put(Put),
    /// Shows a row's value
    Get(Get),
    /// Lists rows or events of a surface; surfaces where none is named
    List(List),
    /// Shows how far each log is held, as `--at` takes it
    Frontier,
    /// Removes a row
    Rm(RowName),
    /// Adds an event to a stream
    Event(Event),
    /// Records a turn of a conversation
    Turn(Turn),
    /// Shows a conversation as it was recorded; the conversations where none is named
    Transcript(Transcript),
    /// Shows a conversation as a model is given it to go on
    Resume(ResumeArgs),
    /// Shows changes as they happen, own and remote
    Watch(Watch),
    /// Records JSON lines {scope?, surface, payload}
    Import(Import),
    /// Writes everything shown as JSON lines that `import` takes
    Export(Export),
    /// Carries what another device lacks in a file, without a network
    Bundle {
        #[command(subcommand)]
        command: Bundle,
    },
    /// Folders or buckets that devices leave sealed changes in for each other
    Dropbox {
        #[command(subcommand)]
        command: Option<Dropbox>,
    },
    /// Shows what this device has and how the others stand
    Status(StatusArgs),
    /// One round with every reachable device now
    Sync(SyncArgs),
    /// Waits until other devices hold what this one has
    Wait(Wait),
    /// Exit 0: another device holds everything durably
    SafeToSleep,
    /// The ledger of runs: what agents did, and under which token
    Intent {
        #[command(subcommand)]
        command: Intents,
    },
    /// What is kept of a surface, on every device
    Policy {
        #[command(subcommand)]
        command: Option<Policies>,
    },
    /// What devices said without knowing of each other: rows, facts and runs
    Conflicts {
        #[command(subcommand)]
        command: Option<Conflicts>,
    },
    /// Seals the state at what every active device holds, and has the others attest it
    Checkpoint(Checkpoint),
    /// Begins with a checkpoint of other devices where the history before it is not to be had
    Rebase(Rebase),
    /// What holds back history that a checkpoint could take the place of, and dropping it
    Gc {
        #[command(subcommand)]
        command: Gc,
    },
    /// Compares states row by row and finds the first that differs; exit 0: all are the same
    Verify(Verify),
    /// The devices of a space, and those that were removed
    Devices {
        #[command(subcommand)]
        command: Option<Devices>,
    },
    /// Calls a device something else
    Rename(Rename),
    /// Removes a device that is at hand, with everything it has written
    Retire(Removal),
    /// Removes a lost or stolen device for good
    Revoke(Removal),
    /// Writes under a new key from now on
    Rotate,
    /// Organisations: spaces shared with devices of others
    Space {
        #[command(subcommand)]
        command: Option<Spaces>,
    },
    /// Who runs an agent now: one device at a time
    Lease {
        #[command(subcommand)]
        command: Lease,
    },
    /// The settings of this device, kept in its config.toml
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Looks for what keeps devices apart, and says what to do; exit 0: nothing does
    Doctor,
    /// Figures of this device: ops, bytes, queues, the time of the disk
    Metrics,
    /// Has a node always run, started by systemd or launchd
    Service(ServiceArgs),
    /// Writes what a shell completes to standard output
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Writes the manual pages into a directory
    Man {
        /// Where; it is made if it is not there
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Exit 0: this run may act now. Anything else: it must not
    Fence(Fence),
    /// Two fresh nodes on this machine write, meet and converge
    Demo(Demo),
}

#[derive(Debug, ClapArgs)]
pub struct Init {
    /// What other devices call this one [default: the host's name]
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Up {
    /// Listens here: ADDRESS:PORT, or a port for all addresses
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    pub listen: Option<SocketAddr>,
    /// Neither announces this device nor looks for others on the local network
    #[arg(long)]
    pub no_mdns: bool,
    /// Dials this HOST:PORT whenever it is not connected; may be given again
    #[arg(long, value_name = "ADDR", value_parser = host_and_port)]
    pub peer: Vec<String>,
    /// Keeps leases here instead of on a device: a shared directory, or s3://, gs:// or az:// with a
    /// bucket and a path; the same place on every device
    #[arg(long, value_name = "PLACE", env = "KINFOLD_LEASES")]
    pub leases: Option<String>,
    /// Listens for WebSockets of this machine on this port; 0 takes a free one
    ///
    /// The port stands in control.port of the home, the token they need in control.token.
    #[arg(long, value_name = "PORT")]
    pub ws_port: Option<u16>,
    /// Listens for no WebSockets, only on the Unix socket
    #[arg(long, conflicts_with = "ws_port")]
    pub no_websocket: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Invite {
    /// What the other device may do [default: admin in the personal space, else member]
    #[arg(long, value_enum)]
    pub role: Option<Role>,
    /// Into which space: the one named for every command
    #[arg(skip)]
    pub space: Option<ScopeParam>,
    /// Leaves the QR code out
    #[arg(long)]
    pub no_qr: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Join {
    /// XXX-XXX-XXX, or the link that begins with kinfold:
    #[arg(value_name = "CODE|LINK")]
    pub code_or_uri: String,
    /// What the other devices call this one [default: its name, or the host's]
    #[arg(long)]
    pub name: Option<String>,
    /// Looks for the invite at this HOST:PORT too
    #[arg(long, value_name = "ADDR")]
    pub peer: Option<String>,
    /// Begins with a checkpoint that one device alone attests, where the history is to be had no other way
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, ClapArgs)]
pub struct RowName {
    /// registry:<kind>, declagent, knowledge, skill, trajectory or run
    pub surface: String,
    /// The row's key
    pub id: String,
}

#[derive(Debug, ClapArgs)]
pub struct Get {
    #[command(flatten)]
    pub row: RowName,
    /// As it was then: a frontier that `kinfold frontier` printed, a time (2026-01-31T12:00:00Z), or how
    /// long ago (90m)
    #[arg(long, value_name = "FRONTIER|TIME")]
    pub at: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Put {
    #[command(flatten)]
    pub row: RowName,
    /// The value: JSON, @FILE, or - for standard input
    #[arg(value_name = "JSON", allow_hyphen_values = true)]
    pub value: String,
}

#[derive(Debug, ClapArgs)]
pub struct List {
    /// Which surface
    pub surface: Option<String>,
    /// Only this stream of an event surface
    #[arg(long)]
    pub stream: Option<String>,
    /// Starts after this key (rows) or the `next` of the page before (events)
    #[arg(long)]
    pub after: Option<String>,
    /// At most this many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// As it was then: a frontier that `kinfold frontier` printed, a time (2026-01-31T12:00:00Z), or how
    /// long ago (90m); one page
    #[arg(long, value_name = "FRONTIER|TIME")]
    pub at: Option<String>,
    /// Facts that another one supersedes as well
    #[arg(long)]
    pub superseded: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Event {
    /// routing or conversation
    pub surface: String,
    /// The stream
    pub stream: String,
    /// What happened: JSON, @FILE, or - for standard input
    #[arg(value_name = "JSON", allow_hyphen_values = true)]
    pub value: String,
}

#[derive(Debug, ClapArgs)]
pub struct Turn {
    /// The conversation
    #[arg(value_name = "CONV")]
    pub conversation: String,
    /// user, assistant or tool
    #[arg(value_name = "ROLE")]
    pub role: String,
    /// What is said: text, @FILE, or - for standard input
    #[arg(value_name = "TEXT", allow_hyphen_values = true)]
    pub text: String,
    /// The tools an assistant calls: a JSON array, or @FILE; each call is an object with an "id"
    #[arg(long, value_name = "JSON")]
    pub tool_calls: Option<String>,
    /// The call that a tool answers
    #[arg(long, value_name = "ID")]
    pub tool_use_id: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Transcript {
    /// The conversation
    #[arg(value_name = "CONV")]
    pub conversation: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct ResumeArgs {
    /// The conversation
    #[arg(value_name = "CONV")]
    pub conversation: String,
    /// Only its last N turns
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
}

#[derive(Debug, ClapArgs)]
pub struct Watch {
    /// Only this surface
    pub surface: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Import {
    /// The file, or - for standard input
    pub file: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub struct Export {
    /// Only this surface
    pub surface: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Bundle {
    /// Writes sealed ops, roster and acks into a new file
    Export(BundleExport),
    /// Takes in what a bundle holds and this device lacks
    Import(BundleImport),
}

#[derive(Debug, Subcommand)]
pub enum Dropbox {
    /// Leaves what this device has there from now on, and takes what others leave
    Add(DropboxPlace),
    /// Lists them
    List,
    /// Leaves it alone from now on; what lies there stays
    Rm(DropboxPlace),
}

#[derive(Debug, ClapArgs)]
pub struct DropboxPlace {
    /// A folder, or s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH where built in
    #[arg(value_name = "FOLDER|URL")]
    pub place: String,
}

#[derive(Debug, ClapArgs)]
pub struct BundleExport {
    /// The file to write; it must not be there
    pub file: PathBuf,
    /// Only what this device lacks, as far as it has said: its id, the first 7 characters, or its name
    #[arg(long = "for", value_name = "DEVICE")]
    pub receiver: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct BundleImport {
    /// The file to read
    pub file: PathBuf,
    /// Begins with the checkpoint in it although one device alone attests it
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, ClapArgs)]
pub struct StatusArgs {
    /// Shows it again whenever it changes
    #[arg(long)]
    pub watch: bool,
}

#[derive(Debug, ClapArgs)]
pub struct SyncArgs {
    /// Only with these: each by its name, its id, or at least four characters the id begins with
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<String>,
    /// How long to look for a device where no node runs
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub enum Gc {
    /// Names the devices and the reasons that hold history back, and says how much would go
    Why,
    /// Drops it; a node that runs does that by itself
    Run(GcRun),
}

#[derive(Debug, ClapArgs)]
pub struct GcRun {
    /// Does not wait for the days in which a mistake can be noticed (config key gc.grace_days)
    #[arg(long)]
    pub now: bool,
    /// With --now, the first 12 characters of the checkpoint, for programs: this cannot be undone
    #[arg(long, value_name = "CHECKPOINT", requires = "now")]
    pub yes: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Checkpoint {
    /// Only lists those that are kept here
    #[arg(long)]
    pub list: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Rebase {
    /// Takes the attestation of one device for enough, for the checkpoint that is waiting now
    #[arg(long)]
    pub yes: bool,
    /// How long to look for a device
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub timeout: Duration,
}

#[derive(Debug, ClapArgs)]
pub struct Verify {
    /// With this device: its id, the first 7 characters of it, or its name [default: all that are connected]
    pub device: Option<String>,
    /// Throws the folded state of this device away before, and folds its log again
    #[arg(long)]
    pub refold: bool,
    /// Folds every op again that stands behind an adopted checkpoint, from devices that still hold them
    #[arg(long)]
    pub base: bool,
    /// How long to look for a device where no node runs
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub timeout: Duration,
}

#[derive(Debug, ClapArgs)]
pub struct Wait {
    /// On how many other devices
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub on: u32,
    /// Gives up after this long, with exit code 75: 30s, 5m
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub timeout: Option<Duration>,
    /// Only this op [default: everything this device has now]
    #[arg(long, value_name = "ID")]
    pub op: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Conflicts {
    /// Lists what is open: rows and facts with more than one value
    List,
    /// Shows every value of a row with its device and time
    Show(ShowConflict),
    /// Settles a conflict, on every device
    Resolve(ResolveConflict),
    /// Shows what was settled, newest first
    Log(ConflictLog),
}

#[derive(Debug, ClapArgs)]
pub struct ShowConflict {
    #[command(flatten)]
    pub row: RowName,
    /// Shows what was settled, with the values that lost
    #[arg(long)]
    pub resolved: bool,
}

#[derive(Debug, ClapArgs)]
#[group(id = "choice", required = true, multiple = false)]
pub struct Choice {
    /// Takes one of the values: its number in `conflicts show`, or the beginning of its op id
    #[arg(long, value_name = "N|OP")]
    pub take: Option<String>,
    /// Sets a new value: JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    pub value: Option<String>,
    /// Removes the row
    #[arg(long)]
    pub delete: bool,
    /// Leaves what shows; the others have been looked at (facts and fenced intents)
    #[arg(long)]
    pub acknowledge: bool,
}

#[derive(Debug, ClapArgs)]
pub struct ResolveConflict {
    #[command(flatten)]
    pub row: RowName,
    #[command(flatten)]
    pub choice: Choice,
}

#[derive(Debug, ClapArgs)]
pub struct ConflictLog {
    /// Only of this row: its surface
    #[arg(requires = "id")]
    pub surface: Option<String>,
    /// Only of this row: its key
    pub id: Option<String>,
    /// At most this many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub limit: u64,
}

#[derive(Debug, Subcommand)]
pub enum Intents {
    /// Records what a run is about to do or has done; exit 1 where it has ended or the token is stale
    Record(RecordIntent),
    /// Lists the runs of an agent, or everything that was said of one
    Show(ShowIntent),
}

#[derive(Debug, ClapArgs)]
pub struct RecordIntent {
    /// The agent
    pub agent: String,
    /// The run: a name that is given once
    pub run: String,
    /// The token of the lease
    pub epoch: u64,
    /// What is said of the run
    #[arg(value_enum)]
    pub status: RunStatus,
    /// What else is to be noted: JSON, `@FILE`, or `-` for standard input
    #[arg(long, value_name = "JSON")]
    pub payload: Option<String>,
    /// The certificate of the host that gave the token
    #[arg(long, value_name = "HASH")]
    pub cert: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct ShowIntent {
    /// The agent
    pub agent: String,
    /// Only this run, with everything that was said of it
    pub run: Option<String>,
}

impl ShowIntent {
    /// What is asked for, in words.
    pub fn what(&self) -> String {
        match &self.run {
            Some(run) => format!("{} {run}", self.agent),
            None => self.agent.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RunStatus {
    /// Its effect is about to happen
    Pending,
    /// Its effect has happened
    Committed,
    /// It ended without its effect
    Failed,
}

impl RunStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Committed => "committed",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Policies {
    /// Lists them, with how much each one drops
    List,
    /// Sets one: `policy set run '{"per_agent":50,"max_age_days":30}'`
    Set(SetPolicy),
    /// Keeps everything of a surface again
    Clear(ClearPolicy),
}

#[derive(Debug, ClapArgs)]
pub struct SetPolicy {
    /// conversation, knowledge, skill, trajectory or run
    pub surface: String,
    /// {"keep":"all"}, {"keep":"default"}, or an object of last_n, per_agent and max_age_days
    #[arg(value_name = "JSON")]
    pub policy: String,
}

#[derive(Debug, ClapArgs)]
pub struct ClearPolicy {
    /// The surface
    pub surface: String,
}

#[derive(Debug, Subcommand)]
pub enum Devices {
    /// Lists them
    List,
    /// Shows this device's id
    Id,
    /// Waits for a device no more: it is away for long, and comes back with what it writes meanwhile
    Dormant(DeviceName),
    /// Waits for a device again
    Active(DeviceName),
}

#[derive(Debug, ClapArgs)]
pub struct DeviceName {
    /// Its id, the first 7 characters of it, or its name
    pub device: String,
}

#[derive(Debug, ClapArgs)]
pub struct Rename {
    /// Its id, the first 7 characters of it, or its name
    pub device: String,
    /// What it is called from now on
    pub name: String,
}

#[derive(Debug, ClapArgs)]
pub struct Removal {
    /// Its id, the first 7 characters of it, or its name
    pub device: String,
    /// Its name once more, for programs: this cannot be undone
    #[arg(long, value_name = "NAME")]
    pub yes: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Spaces {
    /// Begins a space with this device as its first admin
    Create(CreateSpace),
    /// Lists the spaces this device takes part in
    List,
    /// Takes this device out of a space for good
    Leave(LeaveSpace),
}

#[derive(Debug, ClapArgs)]
pub struct CreateSpace {
    /// The organisation: a-z, 0-9, '-', '_' and '.'
    #[arg(value_name = "NAME", value_parser = organisation)]
    pub name: String,
    /// What this device is called there [default: its name]
    #[arg(long, value_name = "NAME")]
    pub device_name: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct LeaveSpace {
    /// Which
    #[arg(value_name = "NAME", value_parser = scope)]
    pub name: ScopeParam,
    /// The name once more, for programs: this cannot be undone
    #[arg(long, value_name = "NAME")]
    pub yes: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Lease {
    /// Takes the lease of an agent for the node that runs here; exit 75: another device holds it
    Acquire(LeaseTaken),
    /// Holds it for longer
    Renew(LeaseKept),
    /// Gives it back, once what ran under it has stopped
    Release(LeaseHeld),
    /// Shows who holds an agent's lease; the host and its leases where none is named
    Status {
        /// Which agent
        agent: Option<String>,
    },
    /// Shows which device hosts the leases
    Host,
    /// Has another device host the leases
    MoveHost(MoveHost),
    /// Runs a command on one device at a time: takes the lease, renews it, and stops the command
    /// before the lease is anybody else's
    Run(LeaseRun),
}

#[derive(Debug, ClapArgs)]
pub struct LeaseRun {
    /// What the lease is for: the same name on every device
    pub agent: AgentId,
    /// Names the run: one that is committed is not run again, here or on another device
    /// [default: a new one each time]
    #[arg(long, value_name = "ID")]
    pub run: Option<RunId>,
    /// How long the lease outlives a device that has gone: 1s to 1h
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "DURATION")]
    pub ttl: Duration,
    /// Waits for the lease where another has it, for ever or this long [default: exit 75 at once]
    #[arg(long, value_parser = duration, value_name = "DURATION", num_args = 0..=1, require_equals = true)]
    pub wait: Option<Option<Duration>>,
    /// What to run, with KINFOLD_AGENT, KINFOLD_RUN and KINFOLD_EPOCH in its environment
    #[arg(value_name = "COMMAND", required = true, last = true)]
    pub command: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Fence {
    /// The agent
    pub agent: AgentId,
    /// The run
    pub run: RunId,
    /// The token it runs under: KINFOLD_EPOCH
    pub epoch: u64,
}

#[derive(Debug, ClapArgs)]
pub struct LeaseTaken {
    /// What the lease is for
    pub agent: String,
    /// How long it outlives a holder that is gone, 1s to 1h [default: 30s]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub ttl: Option<Duration>,
}

#[derive(Debug, ClapArgs)]
pub struct LeaseHeld {
    /// What the lease is for
    pub agent: String,
    /// The token it was acquired with
    pub epoch: u64,
}

#[derive(Debug, ClapArgs)]
pub struct LeaseKept {
    #[command(flatten)]
    pub held: LeaseHeld,
    /// For how long from now, 1s to 1h [default: 30s]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub ttl: Option<Duration>,
}

#[derive(Debug, ClapArgs)]
pub struct MoveHost {
    /// The new host: its id, the first 7 characters of it, or its name
    pub device: String,
    /// The host of now is lost for good: a majority of the others decides without it
    #[arg(long)]
    pub lost: bool,
    /// The name of the lost host, for programs
    #[arg(long, value_name = "NAME", requires = "lost")]
    pub yes: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Shows every setting, or the value of one
    Get(ConfigGet),
    /// Sets one: `config set network.mdns false`
    Set(ConfigSet),
    /// Takes one away, so that its default holds
    Unset(ConfigUnset),
    /// Changes several together by a JSON merge patch (RFC 7396), where null takes a setting away
    Patch(ConfigPatch),
    /// Shows where the file is
    Path,
}

#[derive(Debug, ClapArgs)]
pub struct ConfigGet {
    /// Only this one
    #[arg(value_name = "KEY")]
    pub key: Option<String>,
    /// Says where the file is, too
    #[arg(long)]
    pub diagnostic: bool,
}

#[derive(Debug, ClapArgs)]
pub struct ConfigSet {
    /// SECTION.NAME
    #[arg(value_name = "KEY")]
    pub key: String,
    /// A word, a number, true or false; a list with commas
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    pub value: String,
    /// Only if the settings are at this generation
    #[arg(long, value_name = "N")]
    pub expect: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub struct ConfigUnset {
    /// SECTION.NAME
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Only if the settings are at this generation
    #[arg(long, value_name = "N")]
    pub expect: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub struct ConfigPatch {
    /// A JSON object, or - for objects on standard input, applied one after the other
    #[arg(value_name = "JSON")]
    pub patch: String,
    /// Only if the settings are at this generation
    #[arg(long, value_name = "N")]
    pub expect: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub struct ServiceArgs {
    #[command(subcommand)]
    pub command: ServiceCommand,
    /// Started by whom [default: what this machine has]
    #[arg(long = "for", global = true, value_enum, value_name = "MANAGER")]
    pub manager: Option<Manager>,
    /// Keeps the file here, and has nobody take it up
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Installs and starts it
    Install {
        /// Only shows what would be installed
        #[arg(long)]
        print: bool,
    },
    /// Stops it and takes it away; the device and its data stay
    Remove,
    /// Whether it is installed, and whether a node runs
    Status,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Role {
    /// Adds and removes devices, reads and writes
    Admin,
    /// Reads and writes
    Member,
    /// Stores and forwards ciphertext, holds no key
    Blind,
}

impl From<Role> for RoleParam {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Member => Self::Member,
            Role::Blind => Self::Blind,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub struct Demo {
    /// Takes the history of this git repository as input
    #[arg(long, value_name = "REPO")]
    pub git: Option<PathBuf>,
    /// How many ops: generated ones [default: 20000], or at most this many of the history
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=10_000_000))]
    pub ops: Option<u64>,
    /// Keeps the two homes and says where they are
    #[arg(long)]
    pub keep: bool,
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    // A bare number is a number of seconds.
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text),
    }
}

fn log_filter(text: &str) -> Result<String, tracing_subscriber::filter::ParseError> {
    tracing_subscriber::EnvFilter::builder().parse(text).map(|_| text.to_owned())
}

fn scope(text: &str) -> Result<ScopeParam, kinfold::model::ScopeError> {
    let scope = match text {
        "personal" => ScopeParam::Personal,
        name => ScopeParam::Org(name.strip_prefix("shared:").unwrap_or(name).to_owned()),
    };
    scope.to_scope().map(|_| scope)
}

/// An organisation's name; the personal space is there from the beginning.
fn organisation(text: &str) -> Result<String, kinfold::model::ScopeError> {
    match scope(text)? {
        ScopeParam::Org(name) if name != "personal" => Ok(name),
        ScopeParam::Org(found) => Err(kinfold::model::ScopeError::Organisation { found }),
        ScopeParam::Personal => Err(kinfold::model::ScopeError::Organisation { found: text.to_owned() }),
    }
}

fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    match text.trim_start_matches(':').parse::<u16>() {
        Ok(port) => Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)),
        Err(_) => text
            .parse()
            .map_err(|_| "a port from 0 to 65535, or an address of this machine with one: 192.168.1.4:47650"),
    }
}

fn host_and_port(text: &str) -> Result<String, &'static str> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse());
    match port {
        Some(Ok(1u16..)) => Ok(text.to_owned()),
        _ => Err("a name or address with the port where it listens: desk.example.net:47650"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_listening_address_is_an_address_or_a_port() {
        for (text, address) in [("4433", "[::]:4433"), (":4433", "[::]:4433"), ("127.0.0.1:0", "127.0.0.1:0")]
        {
            assert_eq!(listen_address(text), Ok(address.parse().expect("literal")), "{text}");
        }
        assert!(listen_address("localhost").is_err() && listen_address("99999").is_err());
    }

    #[test]
    fn a_peer_is_a_name_or_address_with_a_port() {
        for (text, is_it) in [
            ("desk.lan:4433", true),
            ("[fd00::2]:1", true),
            ("desk.lan", false),
            ("desk:0", false),
            (":4433", false),
            ("desk:x", false),
        ] {
            assert_eq!(host_and_port(text).is_ok(), is_it, "{text}");
        }
    }

    #[test]
    fn a_space_is_personal_or_an_organisation_s() {
        assert_eq!(scope("personal"), Ok(ScopeParam::Personal));
        assert_eq!(scope("acme"), Ok(ScopeParam::Org("acme".into())));
        assert_eq!(scope("shared:acme"), scope("acme"));
        assert!(scope("Not A Name").is_err());
    }

    #[test]
    fn a_duration_is_written_for_people_or_in_seconds() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("soon").is_err());
    }
}
