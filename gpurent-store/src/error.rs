//! The meaning of the database's errors.

use std::time::Duration;

use gpurent_core::store::StoreError;

/// How long one method may take, its wait for a connection included. A database that hangs must not
/// hang a host.
const METHOD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long may take what is done once and takes as long as the tables are large.
const MIGRATION_TIMEOUT: Duration = Duration::from_mins(10);

#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
struct TimedOut(Duration);

/// Runs a query, but not for ever.
pub(crate) async fn bounded<T>(query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    within(METHOD_TIMEOUT, query).await
}

/// Runs what is done once, likewise.
pub(crate) async fn patient<T>(query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    within(MIGRATION_TIMEOUT, query).await
}

async fn within<T>(limit: Duration, query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, query).await {
        Ok(result) => result.map_err(classify),
        Err(_) => Err(StoreError::Unavailable(Box::new(TimedOut(limit)))),
    }
}

/// The name of the unique constraint that a write broke.
#[cfg(feature = "postgres")]
pub(crate) fn broken_constraint(error: &StoreError) -> Option<&str> {
    let StoreError::Unavailable(source) = error else { return None };
    let database = source.downcast_ref::<sqlx::Error>()?.as_database_error()?;
    database.is_unique_violation().then(|| database.constraint()).flatten()
}

/// Whether a write broke any unique constraint.
#[cfg(feature = "sqlite")]
pub(crate) fn is_unique_violation(error: &StoreError) -> bool {
    let StoreError::Unavailable(source) = error else { return false };
    let database = source.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
    database.is_some_and(|database| database.is_unique_violation())
}

fn classify(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. } => StoreError::Corrupt(Box::new(error)),
        // 40: a serialization failure or a deadlock; the same write may succeed on fresh state.
        sqlx::Error::Database(ref database) if database.code().is_some_and(|code| code.starts_with("40")) => {
            StoreError::Conflict
        }
        other => StoreError::Unavailable(Box::new(other)),
    }
}
