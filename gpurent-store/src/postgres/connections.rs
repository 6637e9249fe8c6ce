//! Connections to PostgreSQL: directly, or through a [pooler](super::pooler) that lends a session for each transaction.
//!
//! Behind a pooler every query is in a transaction of its own that brings its limits along, and is parsed anew: four round
//! trips instead of one.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgQueryResult, PgRow};
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::{ConnectOptions as _, Connection as _, FromRow, Postgres, SqlSafeStr, Transaction};
use tokio::sync::Semaphore;

use super::pooler::{lends_sessions, met_another_session, refused_parameters, without_pgbouncer};

/// The limits of a statement. A database that hangs must not hang a host.
const LIMITS: [(&str, &str); 2] = [("statement_timeout", "4s"), ("lock_timeout", "3s")];
/// The beginning of a transaction that has those limits itself.
const BEGIN_WITH_LIMITS: &str = "BEGIN; SET LOCAL statement_timeout = '4s'; SET LOCAL lock_timeout = '3s'";

/// A connection that was idle for so long is asked whether it lives before it is used.
const MAY_HAVE_DIED: Duration = Duration::from_secs(1);

/// The longest time that making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time that finding out why there is none may take.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// SQLSTATE of a write on a server that only reads: it was demoted, and another one is the primary now.
const READ_ONLY: &str = "25006";

/// The pool, and how its connections may be used.
pub(super) struct Connections {
    pool: PgPool,
    /// Whether sessions are lent for one transaction only.
    lent: AtomicBool,
    demoted: Demoted,
    /// One at a time asks why there is no connection.
    asking: Semaphore,
}

/// When the server was last found to be no primary any more, or not what it was taken for. What was connected before that is
/// closed.
#[derive(Clone, Default)]
struct Demoted(Arc<Mutex<Option<Instant>>>);

impl Demoted {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn since(&self, age: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() <= age)
    }
}

impl Connections {
    /// Connections to `postgres://user:password@host/database`. A pooler is noticed; `pgbouncer=true` or `false` among the
    /// address's parameters says it.
    pub(super) async fn to(url: &str) -> Result<Self, sqlx::Error> {
        let (url, said) = without_pgbouncer(url);
        let plain: PgConnectOptions = url.parse()?;
        let direct = plain.clone().options(LIMITS);
        // Poolers refuse this parameter, too, and nothing here reads floats.
        let lean = plain.extra_float_digits(None);
        let lent = match said {
            Some(said) => said,
            None => match connect(&direct).await {
                Ok(connection) => in_time(lends_sessions(connection, connect(&direct).await?)).await?,
                Err(error) if refused_parameters(&error) => true,
                Err(error) => return Err(error),
            },
        };
        let demoted = Demoted::default();
        let seen = demoted.clone();
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .acquire_timeout(CONNECT_TIMEOUT)
            // A connection that was just used need not be asked whether it lives: that is a round trip.
            .test_before_acquire(false)
            .before_acquire(move |connection, metadata| {
                let is_of_a_former_primary = seen.since(metadata.age);
                Box::pin(async move {
                    Ok(!is_of_a_former_primary
                        && (metadata.idle_for < MAY_HAVE_DIED || connection.ping().await.is_ok()))
                })
            })
            .connect_lazy_with(if lent { lean } else { direct });
        Ok(Self::with(pool, lent, demoted))
    }

    /// An application's own pool.
    pub(super) async fn of(pool: PgPool) -> Result<Self, sqlx::Error> {
        let options = pool.connect_options();
        let lent = in_time(lends_sessions(connect(&options).await?, connect(&options).await?)).await?;
        Ok(Self::with(pool, lent, Demoted::default()))
    }

    fn with(pool: PgPool, lent: bool, demoted: Demoted) -> Self {
        if lent {
            tracing::info!("PostgreSQL is reached through a pooler that lends a session for each transaction");
        }
        Self { pool, lent: AtomicBool::new(lent), demoted, asking: Semaphore::new(1) }
    }

    fn are_lent(&self) -> bool {
        self.lent.load(Ordering::Relaxed)
    }

    /// Learns from an error, for the queries after this one.
    fn learn(&self, error: &sqlx::Error) {
        if met_another_session(error) && !self.lent.swap(true, Ordering::Relaxed) {
            tracing::info!(
                "PostgreSQL turns out to be reached through a pooler that lends a session for each transaction"
            );
            // What connections have prepared is another session's now.
            self.demoted.now();
        }
        if error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(READ_ONLY)) {
            self.demoted.now();
        }
    }

    async fn acquire(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        match self.pool.acquire().await {
            Err(sqlx::Error::PoolTimedOut) => Err(self.why_none().await),
            result => result,
        }
    }

    /// Why there is no connection: the pool tells of its own patience only.
    async fn why_none(&self) -> sqlx::Error {
        let Ok(_permit) = self.asking.try_acquire() else { return sqlx::Error::PoolTimedOut };
        let options = self.pool.connect_options();
        match tokio::time::timeout(EXPLAIN_TIMEOUT, options.connect()).await {
            Ok(Err(error)) => error,
            // The server takes connections, so all of the pool's are in use.
            Ok(Ok(_)) | Err(_) => sqlx::Error::PoolTimedOut,
        }
    }

    /// A connection for one query.
    async fn one(&self) -> Result<Turn<'_>, sqlx::Error> {
        if self.are_lent() {
            return self.begin().await;
        }
        Ok(Turn { of: self, on: On::Connection(self.acquire().await?), is_prepared: true })
    }

    /// A transaction.
    pub(super) async fn begin(&self) -> Result<Turn<'_>, sqlx::Error> {
        let is_prepared = !self.are_lent();
        let begin = if is_prepared { "BEGIN" } else { BEGIN_WITH_LIMITS };
        Ok(Turn { is_prepared, ..self.begin_with(begin).await? })
    }

    /// A transaction that begins with these statements, and prepares none that would stay.
    pub(super) async fn begin_with(&self, begin: &'static str) -> Result<Turn<'_>, sqlx::Error> {
        let transaction = Transaction::begin(self.acquire().await?, Some(begin.into_sql_str())).await?;
        Ok(Turn { of: self, on: On::Transaction(transaction), is_prepared: false })
    }

    pub(super) async fn fetch_one<Q: Asks>(&self, query: Q) -> Result<Q::Answer, sqlx::Error> {
        self.fetch_optional(query).await?.ok_or(sqlx::Error::RowNotFound)
    }

    pub(super) async fn fetch_optional<Q: Asks>(&self, query: Q) -> Result<Option<Q::Answer>, sqlx::Error> {
        let mut turn = self.one().await?;
        let found = turn.fetch_optional(query).await?;
        turn.end().await?;
        Ok(found)
    }

    pub(super) async fn fetch_all<Q: Asks>(&self, query: Q) -> Result<Vec<Q::Answer>, sqlx::Error> {
        let mut turn = self.one().await?;
        let found = turn.fetch_all(query).await?;
        turn.end().await?;
        Ok(found)
    }

    pub(super) async fn execute(&self, query: PgQuery<'_>) -> Result<PgQueryResult, sqlx::Error> {
        let mut turn = self.one().await?;
        let done = turn.execute(query).await?;
        turn.end().await?;
        Ok(done)
    }
}

pub(super) type PgQuery<'q> = Query<'q, Postgres, PgArguments>;

enum On {
    Connection(PoolConnection<Postgres>),
    Transaction(Transaction<'static, Postgres>),
}

/// A connection's time for somebody: one query, or a transaction. Dropped, a transaction is rolled back.
pub(super) struct Turn<'c> {
    of: &'c Connections,
    on: On,
    /// Whether statements stay prepared for the next turn.
    is_prepared: bool,
}

impl Turn<'_> {
    fn connection(&mut self) -> &mut PgConnection {
        match &mut self.on {
            On::Connection(connection) => connection,
            On::Transaction(transaction) => transaction,
        }
    }

    pub(super) async fn fetch_one<Q: Asks>(&mut self, query: Q) -> Result<Q::Answer, sqlx::Error> {
        self.fetch_optional(query).await?.ok_or(sqlx::Error::RowNotFound)
    }

    pub(super) async fn fetch_optional<Q: Asks>(&mut self, query: Q) -> Result<Option<Q::Answer>, sqlx::Error> {
        let is_prepared = self.is_prepared;
        query.optional(self.connection(), is_prepared).await.inspect_err(|error| self.of.learn(error))
    }

    pub(super) async fn fetch_all<Q: Asks>(&mut self, query: Q) -> Result<Vec<Q::Answer>, sqlx::Error> {
        let is_prepared = self.is_prepared;
        query.all(self.connection(), is_prepared).await.inspect_err(|error| self.of.learn(error))
    }

    pub(super) async fn execute(&mut self, query: PgQuery<'_>) -> Result<PgQueryResult, sqlx::Error> {
        let is_prepared = self.is_prepared;
        let done = query.persistent(is_prepared).execute(self.connection()).await;
        done.inspect_err(|error| self.of.learn(error))
    }

    /// Several statements without parameters.
    pub(super) async fn execute_all(&mut self, statements: impl SqlSafeStr + Send) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(statements).execute(self.connection()).await.map(|_| ())
    }

    /// Commits, where there is something to commit.
    pub(super) async fn end(self) -> Result<(), sqlx::Error> {
        match self.on {
            On::Connection(_) => Ok(()),
            On::Transaction(transaction) => transaction.commit().await,
        }
    }
}

/// A query with an answer.
pub(super) trait Asks: Send {
    type Answer: Send;

    fn optional(
        self,
        connection: &mut PgConnection,
        is_prepared: bool,
    ) -> impl Future<Output = Result<Option<Self::Answer>, sqlx::Error>> + Send;

    fn all(
        self,
        connection: &mut PgConnection,
        is_prepared: bool,
    ) -> impl Future<Output = Result<Vec<Self::Answer>, sqlx::Error>> + Send;
}

impl<O: for<'r> FromRow<'r, PgRow> + Send + Unpin> Asks for QueryAs<'_, Postgres, O, PgArguments> {
    type Answer = O;

    async fn optional(self, connection: &mut PgConnection, is_prepared: bool) -> Result<Option<O>, sqlx::Error> {
        self.persistent(is_prepared).fetch_optional(connection).await
    }

    async fn all(self, connection: &mut PgConnection, is_prepared: bool) -> Result<Vec<O>, sqlx::Error> {
        self.persistent(is_prepared).fetch_all(connection).await
    }
}

impl<O: Send + Unpin> Asks for QueryScalar<'_, Postgres, O, PgArguments>
where
    (O,): for<'r> FromRow<'r, PgRow>,
{
    type Answer = O;

    async fn optional(self, connection: &mut PgConnection, is_prepared: bool) -> Result<Option<O>, sqlx::Error> {
        self.persistent(is_prepared).fetch_optional(connection).await
    }

    async fn all(self, connection: &mut PgConnection, is_prepared: bool) -> Result<Vec<O>, sqlx::Error> {
        self.persistent(is_prepared).fetch_all(connection).await
    }
}

/// One connection, not for ever waited for.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    match in_time(options.connect()).await {
        // Over TCP nothing but a certificate's file can be missing.
        Err(sqlx::Error::Io(error)) if error.kind() == ErrorKind::NotFound && !is_local(options) => {
            Err(sqlx::Error::Tls(error.into()))
        }
        result => result,
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let late = || sqlx::Error::Io(std::io::Error::new(ErrorKind::TimedOut, "no answer within 5 s"));
    tokio::time::timeout(CONNECT_TIMEOUT, asked).await.unwrap_or_else(|_| Err(late()))
}

/// Whether a server is reached by a socket in the file system.
fn is_local(options: &PgConnectOptions) -> bool {
    options.get_socket().is_some() || options.get_host().starts_with('/')
}
