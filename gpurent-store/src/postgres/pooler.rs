//! Poolers in front of the server (PgBouncer, Supabase's Supavisor), and how one is noticed.
//!
//! In transaction mode a pooler lends a session of the server for one transaction. Nothing outlives that then: no prepared
//! statement, no setting, no lock of a session.

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

/// SQLSTATE "protocol violation": what poolers answer to a startup parameter that they cannot keep.
const PROTOCOL_VIOLATION: &str = "08P01";
/// SQLSTATEs of a prepared statement that somebody else made, or that is another session's.
const ANOTHER_SESSIONS: [&str; 2] = ["42P05", "26000"];

/// The number of looks for a pooler: somebody else's transaction may come in between.
const LOOKS: u32 = 3;

/// Whether an error is a pooler's answer to parameters that only a session of one's own keeps.
pub(super) fn refused_parameters(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(PROTOCOL_VIOLATION))
}

/// Whether an error shows that statements of other sessions were met.
pub(super) fn met_another_session(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| ANOTHER_SESSIONS.contains(&&*code))
}

/// Whether two connections are lent the same session: what one sets, the other finds. Between two transactions a pooler gives
/// the session that was used last.
pub(super) async fn lends_sessions(mut one: PgConnection, mut other: PgConnection) -> Result<bool, sqlx::Error> {
    let mut found = false;
    for look in 0..LOOKS {
        // No other process looks by the same word.
        let word = format!("{}-{look}-{:p}", std::process::id(), &raw const one);
        let set = sqlx::AssertSqlSafe(format!("SET gpurent.lent = '{word}'"));
        sqlx::raw_sql(set).execute(&mut one).await?;
        let row = sqlx::raw_sql("SELECT current_setting('gpurent.lent', true)").fetch_one(&mut other).await?;
        sqlx::raw_sql("RESET gpurent.lent").execute(&mut other).await?;
        found = row.try_get::<Option<String>, _>(0)?.as_deref() == Some(&word);
        if found {
            break;
        }
    }
    one.close().await?;
    other.close().await?;
    Ok(found)
}

/// An address without `pgbouncer=true` (Prisma's parameter, which Supabase tells people to set), and what that said.
pub(super) fn without_pgbouncer(url: &str) -> (String, Option<bool>) {
    let Some((address, parameters)) = url.split_once('?') else { return (url.to_owned(), None) };
    let mut said = None;
    let mut kept = Vec::new();
    for parameter in parameters.split('&') {
        match parameter.split_once('=') {
            Some(("pgbouncer", value)) => said = Some(value == "true"),
            _ => kept.push(parameter),
        }
    }
    let kept = kept.join("&");
    (if kept.is_empty() { address.to_owned() } else { format!("{address}?{kept}") }, said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_whether_there_is_a_pooler() {
        let of = |url: &str| without_pgbouncer(url);
        assert_eq!(of("postgres://a@b/c"), ("postgres://a@b/c".to_owned(), None));
        assert_eq!(of("postgres://a@b/c?pgbouncer=true"), ("postgres://a@b/c".to_owned(), Some(true)));
        assert_eq!(
            of("postgres://a@b/c?sslmode=require&pgbouncer=false&application_name=x"),
            ("postgres://a@b/c?sslmode=require&application_name=x".to_owned(), Some(false))
        );
    }
}
