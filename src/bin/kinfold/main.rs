//! The `kinfold` command.
//!
//! Owns arguments, terminal and exit codes. Every command that touches a device's state is one call
//! of [`kinfold::control`]: through the socket where a node runs, in this process where none does.

#![forbid(unsafe_code)]

mod args;
mod bundle;
mod checkpoint;
mod config;
mod confirm;
mod conflicts;
mod demo;
mod devices;
mod doctor;
mod dropbox;
mod failure;
mod gc;
mod history;
mod home;
mod intents;
mod invite;
mod join;
mod lease;
#[cfg(unix)]
mod lease_child;
#[cfg(unix)]
mod lease_run;
mod line;
mod log;
mod metrics;
mod notify;
mod output;
mod pages;
mod past;
mod policy;
mod progress;
mod rebase;
mod roster;
mod rows;
mod screen;
mod service;
mod spaces;
mod state;
mod status;
mod talk;
mod target;
mod transfer;
mod up;
mod verify;
mod watch;

use std::pin::Pin;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use failure::Failure;
use output::Output;
use target::Site;

fn main() -> ExitCode {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // A damaged store is reported as that, by whoever asked it.
        if !kinfold::store::panic_becomes_error() {
            tell(panic);
        }
    }));
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no errors to clap's exit code; a closed pipe is nobody's fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::EXIT_USAGE));
        }
    };
    let output = Output::new(args.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => return Failure::Runtime { source }.report(&output),
    };
    // Behind a pointer, or the commands would be built into each of the ways in which a runtime waits.
    let commands: Pin<Box<dyn Future<Output = _>>> = Box::pin(run(args, &output));
    let outcome = runtime.block_on(commands);
    // What still blocks a thread (a read from a terminal) must not hold the exit.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&output),
    }
}

async fn run(args: Args, output: &Output) -> Result<(), Failure> {
    if !matches!(args.command, Command::Up(_)) {
        log::to_stderr(args.log.as_deref());
    }
    let home = || home::resolve(args.home.clone());
    let site = || Ok::<_, Failure>(Site { home: home()?, scope: args.space.clone().unwrap_or_default() });
    match args.command {
        Command::Init(init) => home::init(&home()?, init.name, output),
        Command::Up(up) => up::run(&home()?, up, args.log.as_deref(), output).await,
        Command::Invite(mut invite) => {
            invite.space = args.space.clone();
            invite::run(&home()?, invite, output).await
        }
        Command::Join(join) => join::run(&home()?, join, output).await,
        Command::Put(put) => rows::put(&site()?, put, output).await,
        Command::Get(get) => rows::get(&site()?, get, output).await,
        Command::List(list) => rows::list(&site()?, list, output).await,
        Command::Frontier => past::frontier(&site()?, output).await,
        Command::Rm(rm) => rows::rm(&site()?, rm, output).await,
        Command::Event(event) => rows::event(&site()?, event, output).await,
        Command::Turn(turn) => talk::turn(&site()?, turn, output).await,
        Command::Transcript(transcript) => talk::transcript(&site()?, transcript, output).await,
        Command::Resume(resume) => talk::resume(&site()?, resume, output).await,
        Command::Watch(watch) => watch::run(&site()?, watch, output).await,
        Command::Import(import) => transfer::import(&site()?, import, output).await,
        Command::Export(export) => transfer::export(&site()?, export, output).await,
        Command::Bundle { command } => bundle::run(&site()?, command, output).await,
        Command::Dropbox { command } => dropbox::run(&site()?, command, output).await,
        Command::Status(status) => status::run(&site()?, status, output).await,
        Command::Sync(sync) => state::sync(&site()?, sync, output).await,
        Command::Wait(wait) => state::wait(&site()?, wait, output).await,
        Command::SafeToSleep => state::safe_to_sleep(&site()?, output).await,
        Command::Intent { command } => intents::run(&site()?, command, output).await,
        Command::Policy { command } => policy::run(&site()?, command, output).await,
        Command::Checkpoint(args) => checkpoint::run(&site()?, args, output).await,
        Command::Rebase(args) => rebase::run(&site()?, args, output).await,
        Command::Gc { command } => gc::run(&site()?, command, output).await,
        Command::Verify(args) => verify::run(&site()?, args, output).await,
        Command::Conflicts { command } => conflicts::run(&site()?, command, output).await,
        Command::Devices { command } => devices::run(&site()?, command, output).await,
        Command::Rename(rename) => roster::rename(&site()?, rename, output).await,
        Command::Retire(removal) => roster::retire(&site()?, removal, output).await,
        Command::Revoke(removal) => roster::revoke(&site()?, removal, output).await,
        Command::Rotate => roster::rotate(&site()?, output).await,
        Command::Space { command } => spaces::run(&home()?, command, output).await,
        Command::Lease { command } => lease::run(&site()?, command, output).await,
        Command::Fence(fence) => lease::fence(&site()?, fence, output).await,
        Command::Config { command } => config::run(&home()?, command, output).await,
        Command::Doctor => doctor::run(&home()?, output).await,
        Command::Metrics => metrics::run(&home()?, output).await,
        Command::Service(service) => service::run(&home()?, service, output).await,
        Command::Completions { shell } => pages::completions(shell, output),
        Command::Man { dir } => pages::man(&dir, output),
        Command::Demo(demo) => demo::run(demo, output).await,
    }
}
