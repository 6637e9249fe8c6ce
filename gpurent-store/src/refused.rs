//! Databases that refuse for good: waiting helps nobody, and somebody has to change something.

use std::io::ErrorKind;

use gpurent_core::store::StoreError;
#[cfg(feature = "sqlite")]
use sqlx::migrate::MigrateError;

/// A database that cannot be used as it is set up, by what is to be done about it.
#[derive(thiserror::Error)]
#[cfg_attr(
    not(all(feature = "postgres", feature = "sqlite")),
    allow(dead_code, reason = "each database refuses in ways of its own")
)]
pub(crate) enum Refused {
    #[error("the database's address cannot be understood")]
    Address(#[source] sqlx::Error),
    #[error("there is no database of this name on the server: make it with createdb, or name another")]
    NoDatabase(#[source] sqlx::Error),
    #[error(
        "the server refuses the role or its password from this machine: check the address, the server's roles and its pg_hba.conf"
    )]
    Login(#[source] sqlx::Error),
    #[error(
        "the role lacks rights: GRANT CREATE ON DATABASE ... TO ... for the first start and for upgrades, and all rights in the schema gpurent to a role that did not make it"
    )]
    Rights(#[source] sqlx::Error),
    #[error(
        "no encrypted connection to the server: for an authority of your own add sslrootcert=FILE to the address, for a server without TLS sslmode=prefer"
    )]
    Tls(#[source] sqlx::Error),
    #[error("the server is PostgreSQL {major}; 12 is the oldest that works")]
    OldServer { major: i32 },
    #[error(
        "the tables are at version {version} of another, newer program: use that one, or the backup from before its start"
    )]
    NewerSchema { version: i64 },
    #[error(
        "the file cannot be opened, made or written: check its folder, its owner and whether its disk is mounted read-only"
    )]
    File(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the connections' search_path leads into the schema gpurent: use another role, or set search_path=public")]
    AmongOurTables,
    #[error("the file is no SQLite database")]
    NotADatabase(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// As [`Display`](std::fmt::Display): `fn main() -> Result<..>` prints errors so, and what is to be done is in the sentence.
impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

fn misconfigured(refused: Refused) -> StoreError {
    StoreError::Misconfigured(Box::new(refused))
}

/// An error of PostgreSQL at the start: permanent ones by what is to be done, all others as an outage.
#[cfg(feature = "postgres")]
pub(crate) fn unless_permanent(error: sqlx::Error) -> StoreError {
    let made: fn(sqlx::Error) -> Refused = match &error {
        sqlx::Error::Configuration(_) => Refused::Address,
        sqlx::Error::Tls(_) => Refused::Tls,
        sqlx::Error::Io(io) if io.kind() == ErrorKind::InvalidData => Refused::Tls,
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        sqlx::Error::Database(database) => match database.code().as_deref() {
            Some("3D000") => Refused::NoDatabase,
            Some("28000" | "28P01") => Refused::Login,
            Some("42501") => Refused::Rights,
            // PgBouncer has one code for all of its refusals.
            Some("08P01") if database.message().starts_with("no such database") => Refused::NoDatabase,
            _ => return StoreError::Unavailable(Box::new(error)),
        },
        _ => return StoreError::Unavailable(Box::new(error)),
    };
    misconfigured(made(error))
}

/// An error of SQLite and its tables at the start, likewise.
#[cfg(feature = "sqlite")]
pub(crate) fn unless_permanent_file(error: MigrateError) -> StoreError {
    match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => {
            misconfigured(Refused::NewerSchema { version })
        }
        error => match sqlite_code(&error) {
            // https://www.sqlite.org/rescode.html: READONLY, PERM and CANTOPEN; NOTADB; CORRUPT.
            Some(3 | 8 | 14) => misconfigured(Refused::File(Box::new(error))),
            Some(26) => misconfigured(Refused::NotADatabase(Box::new(error))),
            Some(11) => StoreError::Corrupt(Box::new(error)),
            _ => StoreError::Unavailable(Box::new(error)),
        },
    }
}

/// The primary result code of SQLite in an error.
#[cfg(feature = "sqlite")]
fn sqlite_code(error: &MigrateError) -> Option<i32> {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else { return None };
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// A file, or its folder, that could not be made.
#[cfg(feature = "sqlite")]
pub(crate) fn unless_permanent_io(error: std::io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::PermissionDenied
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::NotFound => misconfigured(Refused::File(Box::new(error))),
        _ => StoreError::Unavailable(Box::new(error)),
    }
}
