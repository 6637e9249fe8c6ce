//! `gpurent-host`: the agent that rents this machine's GPUs out, and its command line.
//!
//! `serve` is the agent. `rent`, `ps`, `show`, `logs`, `extend`, `suspend`, `resume`, `stop`, `ssh`, `gpus`
//! and `audit` speak to a running
//! agent's API, here or elsewhere; `keys`, `reconcile --dry-run` and `force-end` are the operator's, and
//! speak to database and engine themselves, so that they work when the agent does not. `doctor` says what keeps `serve` from
//! working well.

mod archive;
mod client;
mod command;
mod config;
mod dashboard_registration;
mod database;
mod exit;
mod failpoint;
mod finding;
mod former_settings;
mod kernel;
mod own_files;
mod protocols;
mod seal_key;
mod serve;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use client::Connection;
use exit::{Failed, with_causes};
use tracing_subscriber::EnvFilter;

/// Rents this machine's GPUs out as time-limited containers.
#[derive(Parser)]
#[command(version, after_help = exit::HELP)]
struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API and act for this host until told to stop; tenants run on afterwards.
    Serve(Box<config::Serve>),
    /// Say what keeps this machine from renting out well, and what mends it; takes the settings of `serve`.
    Doctor(Box<config::Serve>),
    /// Rent a GPU, and wait until it is ready.
    Rent(Box<command::rent::Rent>),
    /// List rentals.
    Ps(command::rentals::Ps),
    /// Show one rental.
    Show {
        /// The rental's id, the beginning of its id, or its name.
        rental: String,
    },
    /// Show the last lines of a rental's program.
    Logs {
        /// The rental's id, the beginning of its id, or its name.
        rental: String,
        /// How many lines.
        #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        tail: u16,
        /// Stay, and show whatever comes.
        #[arg(long, short)]
        follow: bool,
        /// Show who logged in from where instead of the program's output.
        #[arg(long, conflicts_with = "follow")]
        access: bool,
    },
    /// Make a rental's paid time longer.
    Extend {
        /// The rental's id, the beginning of its id, or its name.
        rental: String,
        #[command(flatten)]
        longer: command::rentals::Longer,
    },
    /// Stop rentals' containers, free their GPUs, and keep their files and what is left of their time.
    ///
    /// Files in the container and in the workspace are kept. What runs is ended, and what lies in memory is gone: processes,
    /// /dev/shm and other tmpfs, what is on the GPU. Paid time stands still. After 30 days the rental ends.
    Suspend {
        /// The rentals' ids, the beginnings of their ids, or their names.
        #[arg(required = true)]
        rentals: Vec<String>,
    },
    /// Bring suspended rentals back with their files, where there are GPUs for them; waits, and shows how to log in now.
    ///
    /// GPU and ports are those from before where they are free; otherwise the port to log in is another one.
    Resume {
        /// The rentals' ids, the beginnings of their ids, or their names.
        #[arg(required = true)]
        rentals: Vec<String>,
        /// Do not wait.
        #[arg(long, short)]
        detach: bool,
    },
    /// End rentals.
    Stop {
        /// The rentals' ids, the beginnings of their ids, or their names.
        #[arg(required = true)]
        rentals: Vec<String>,
    },
    /// Show how to log in to a rental, and change the keys that let in.
    Access {
        /// The rental's id, the beginning of its id, or its name.
        rental: String,
        #[command(flatten)]
        change: command::ssh::KeyChange,
    },
    /// Log in to a rental.
    Ssh {
        /// The rental's id, the beginning of its id, or its name.
        rental: String,
        /// The command to run there, instead of a shell.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Show the host's GPUs, and which are free.
    Gpus,
    /// Show who did what; with an operator's key.
    Audit {
        /// At most so many entries.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        limit: u16,
    },
    /// Export rentals that ended long ago, and delete them from the host; with an operator's key.
    Archive(command::archive::Archive),
    /// Make, list and revoke API keys.
    Keys {
        #[command(flatten)]
        place: command::keys::KeyLocation,
        #[command(subcommand)]
        command: command::keys::Keys,
    },
    /// Say what the agent would do next.
    Reconcile(command::reconcile::Reconcile),
    /// End a rental whose engine is gone for good, and free its GPUs.
    ForceEnd(command::force_end::ForceEnd),
    /// Print a shell's completions.
    Completions {
        /// For which shell.
        shell: Shell,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { connection, command } = Arguments::parse();
    let serves = matches!(command, Command::Serve(_));
    let usual = if serves { "info,sqlx=warn" } else { "warn" };
    let filter = EnvFilter::try_from_env("GPURENT_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    // Only fails where it was done before.
    drop(rustls::crypto::ring::default_provider().install_default());
    match run(connection, command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            // The agent's log is its own; a command speaks to whoever typed it.
            if serves {
                tracing::error!("{failed}");
            } else {
                eprintln!("gpurent-host: {}", command::escape_control(&failed.to_string()));
            }
            failed.code()
        }
    }
}

async fn run(connection: Connection, command: Command) -> Result<(), Failed> {
    use command::{archive, audit, doctor, force_end, gpus, keys, reconcile, rent, rentals, ssh};
    match command {
        Command::Serve(settings) => serve::serve(*settings, connection.api_key_file.as_deref())
            .await
            .map_err(|error| Failed::Here(with_causes(&*error))),
        Command::Doctor(settings) => doctor::doctor(*settings, connection.json).await,
        Command::Rent(arguments) => rent::rent(&connection, *arguments).await,
        Command::Ps(arguments) => rentals::ps(&connection, arguments).await,
        Command::Show { rental } => rentals::show(&connection, &rental).await,
        Command::Logs { rental, tail, follow, access } => {
            let what = if access { rentals::Output::Access } else { rentals::Output::Program { follow } };
            rentals::logs(&connection, &rental, tail, what).await
        }
        Command::Access { rental, change } => ssh::access(&connection, &rental, change).await,
        Command::Extend { rental, longer } => rentals::extend(&connection, &rental, longer).await,
        Command::Suspend { rentals: names } => rentals::suspend(&connection, &names).await,
        Command::Resume { rentals: names, detach } => rentals::resume(&connection, &names, detach).await,
        Command::Archive(arguments) => archive::archive(&connection, arguments).await,
        Command::Audit { limit } => audit::audit(&connection, limit).await,
        Command::Stop { rentals: names } => rentals::stop(&connection, &names).await,
        Command::Ssh { rental, command } => ssh::ssh(&connection, &rental, &command).await,
        Command::Gpus => gpus::gpus(&connection).await,
        Command::Keys { place, command } => keys::keys(&place, connection.json, command).await,
        Command::Reconcile(arguments) => reconcile::reconcile(arguments, connection.json).await,
        Command::ForceEnd(arguments) => force_end::force_end(arguments, connection.json).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "gpurent-host", &mut std::io::stdout());
            Ok(())
        }
    }
}
