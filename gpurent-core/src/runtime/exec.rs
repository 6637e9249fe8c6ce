//! Programs of a renter inside a running container, without a login: read its output as it comes, run a
//! program on a terminal, see how much it uses.
//!
//! Apart from [`ContainerRuntime`](crate::runtime::ContainerRuntime), since no rental's life depends on it: an engine
//! that offers none of it can still be rented out.

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::error::ValidationError;
use crate::id::LaunchId;
use crate::runtime::RuntimeError;

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    columns: u16,
    rows: u16,
}

impl TerminalSize {
    /// A size.
    ///
    /// # Errors
    /// Refuses none, and more than 1000 of either.
    pub fn new(columns: u16, rows: u16) -> Result<Self, ValidationError> {
        if (1..=1000).contains(&columns) && (1..=1000).contains(&rows) {
            Ok(Self { columns, rows })
        } else {
            Err(ValidationError::new("size", "must be 1 to 1000 columns and rows"))
        }
    }

    /// How many characters a line has.
    #[must_use]
    pub fn columns(self) -> u16 {
        self.columns
    }

    /// How many lines there are.
    #[must_use]
    pub fn rows(self) -> u16 {
        self.rows
    }
}

impl Default for TerminalSize {
    /// 80 by 24
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}

/// A program to run inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    command: Vec<String>,
    /// The terminal that it gets; without one its output is not touched.
    pub terminal: Option<TerminalSize>,
}

impl Program {
    /// The login shell of the rental's user, on a terminal.
    #[must_use]
    pub fn shell(terminal: TerminalSize) -> Self {
        Self { command: Vec::new(), terminal: Some(terminal) }
    }

    /// A program and its arguments.
    ///
    /// # Errors
    /// Refuses an empty command, more than 256 arguments, and more than 32 KiB.
    pub fn new(command: Vec<String>, terminal: Option<TerminalSize>) -> Result<Self, ValidationError> {
        let bytes: usize = command.iter().map(String::len).sum();
        let wrong = command.is_empty() || command.len() > 256 || bytes > 32 * 1024;
        if wrong || command[0].is_empty() || command.iter().any(|part| part.contains('\0')) {
            return Err(ValidationError::new(
                "command",
                "must be a program and at most 255 arguments, 32 KiB together",
            ));
        }
        Ok(Self { command, terminal })
    }

    /// The command; `None` for the login shell.
    #[must_use]
    pub fn command(&self) -> Option<&[String]> {
        (!self.command.is_empty()).then_some(&self.command)
    }
}

/// Bytes as they come.
pub type Bytes = BoxStream<'static, Result<Vec<u8>, RuntimeError>>;

/// A program that runs. Dropping its input and output lets it go: what it does then is the engine's affair.
pub struct Session {
    /// The program's input.
    pub input: Box<dyn Input>,
    /// The program's output, both streams as they come.
    pub output: Bytes,
    /// The program's exit code, once its output has ended; `None` where the engine does not tell.
    pub exit: BoxFuture<'static, Option<i64>>,
}

/// The input of a running program.
#[async_trait]
pub trait Input: Send {
    /// Types something. Waits while the program reads nothing.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), RuntimeError>;

    /// The terminal has another size now.
    async fn resize(&mut self, size: TerminalSize) -> Result<(), RuntimeError>;
}

/// How much a container uses at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Hundredths of one CPU: 250 means two and a half.
    pub cpu_percent: f64,
    /// Bytes of memory, caches not counted.
    pub memory_used: u64,
    /// Bytes of memory that it may use.
    pub memory_limit: u64,
}

/// Reaches into running containers.
#[async_trait]
pub trait ContainerExec: Send + Sync + 'static {
    /// A container's output: the last `lines`, then whatever comes, until it ends. Nothing is kept for a reader who
    /// is slow: the engine waits for them.
    async fn follow(&self, launch: LaunchId, lines: usize) -> Result<Bytes, RuntimeError>;

    /// Runs a program beside the container's own, as the rental's user.
    ///
    /// # Errors
    /// [`RuntimeError::Missing`] where the container does not run, [`RuntimeError::Refused`] where the program cannot
    /// be run.
    async fn run(&self, launch: LaunchId, program: &Program) -> Result<Session, RuntimeError>;

    /// The last logins, at most `lines`: from where, and which failed, each with its time first (RFC 3339).
    /// Kept by the container itself, and so gone with it.
    ///
    /// # Errors
    /// [`RuntimeError::Missing`] where the container does not run, [`RuntimeError::Refused`] where it keeps no such log.
    async fn access_log(&self, launch: LaunchId, lines: usize) -> Result<Vec<String>, RuntimeError>;

    /// How much a container uses.
    async fn usage(&self, launch: LaunchId) -> Result<Usage, RuntimeError>;
}
