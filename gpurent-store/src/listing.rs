//! Lists of rentals, put together so that each costs its page and not the history: every part of one walks an index that has
//! its rows newest first, or looks at those that live.

use gpurent_core::id::HostId;
use gpurent_core::model::{EndKind, Phase, Rental};
use gpurent_core::store::Filter;
use sha2::{Digest as _, Sha256};
use sqlx::{Database, Encode, QueryBuilder, Type};

/// The names of a database's tables, and how they are searched.
pub(crate) struct Tables {
    pub(crate) rental: &'static str,
    /// Labels, one a row, and under the empty name the rental's own.
    pub(crate) tag: &'static str,
    /// Whether tags are found by their [digest], instead of by name and value.
    pub(crate) digests: bool,
    /// The hint that has a database look at live rentals, where it would rather walk everything newest first.
    pub(crate) live_index: &'static str,
}

/// The name of the tag that has the rental's own name.
pub(crate) const OWN_NAME: &str = "";

/// The tags that a rental is found by: its labels, and under [`OWN_NAME`] its own name.
pub(crate) fn tags(rental: &Rental) -> impl Iterator<Item = (&str, &str)> {
    std::iter::once((OWN_NAME, rental.name().as_str())).chain(rental.spec().labels.iter())
}

/// A rental's tags as columns.
#[cfg(feature = "postgres")]
pub(crate) struct Tags<'a> {
    pub(crate) names: Vec<&'a str>,
    pub(crate) values: Vec<&'a str>,
    pub(crate) digests: Vec<Vec<u8>>,
}

#[cfg(feature = "postgres")]
impl<'a> Tags<'a> {
    pub(crate) fn of(rental: &'a Rental) -> Self {
        let (names, values) = tags(rental).unzip();
        Self { names, values, digests: tags(rental).map(|(name, value)| digest(name, value)).collect() }
    }
}

/// The digest that a tag is found by where values are too long for an index: the first half of the SHA-256 of `name=value`. Nobody can make
/// another one of the same.
pub(crate) fn digest(name: &str, value: &str) -> Vec<u8> {
    let mut digest = Sha256::digest(format!("{name}={value}")).to_vec();
    digest.truncate(16);
    digest
}

/// The rows of one part of a list.
enum Part<'a> {
    All,
    /// The live rentals in one of these phases.
    Live(Vec<Phase>),
    Ended(EndKind),
    /// The rentals with a name or a label, in whichever of the filter's states.
    Tagged(&'a str, &'a str),
}

/// The parts that make up what passes a filter.
fn parts(filter: &Filter) -> Vec<Part<'_>> {
    let own_name = filter.name.as_ref().map(|name| (OWN_NAME, name.as_str()));
    let label = filter.label.as_ref().map(|(name, value)| (name.as_str(), value.as_str()));
    let tagged = own_name.or(label).map(|(name, value)| Part::Tagged(name, value));
    let live: Vec<Phase> = filter.phases.iter().copied().filter(|phase| *phase != Phase::Ended).collect();
    let ends: Vec<EndKind> = EndKind::ALL
        .into_iter()
        .filter(|end| filter.ends.contains(end) || filter.phases.contains(&Phase::Ended))
        .collect();
    let every_state = live.is_empty() && ends.is_empty();
    match tagged {
        // Few live, so it is they who are looked at, rather than all that ever had this name.
        Some(tagged) if every_state || !ends.is_empty() => vec![tagged],
        None if every_state => vec![Part::All],
        _ => {
            let live = if live.is_empty() { None } else { Some(Part::Live(live)) };
            live.into_iter().chain(ends.into_iter().map(Part::Ended)).collect()
        }
    }
}

/// A list in one database.
pub(crate) struct Listing<'a, I> {
    pub(crate) tables: &'a Tables,
    pub(crate) host: &'a HostId,
    pub(crate) filter: &'a Filter,
    /// When the last rental of the page before was made, and its id.
    pub(crate) after: Option<(i64, I)>,
    pub(crate) limit: i64,
}

impl<I: Clone> Listing<'_, I> {
    /// The query for the bodies of a page.
    pub(crate) fn query<DB: Database>(&self) -> QueryBuilder<DB>
    where
        for<'q> I: Encode<'q, DB> + Type<DB> + 'q,
        for<'q> String: Encode<'q, DB> + Type<DB>,
        for<'q> Vec<u8>: Encode<'q, DB> + Type<DB>,
        for<'q> i64: Encode<'q, DB> + Type<DB>,
    {
        self.query_after("")
    }

    /// The same behind words that have it explained.
    fn query_after<DB: Database>(&self, explain: &str) -> QueryBuilder<DB>
    where
        for<'q> I: Encode<'q, DB> + Type<DB> + 'q,
        for<'q> String: Encode<'q, DB> + Type<DB>,
        for<'q> Vec<u8>: Encode<'q, DB> + Type<DB>,
        for<'q> i64: Encode<'q, DB> + Type<DB>,
    {
        let mut query = QueryBuilder::new(format!("{explain}SELECT body FROM ("));
        for (n, part) in parts(self.filter).into_iter().enumerate() {
            query.push(if n == 0 { "SELECT * FROM (" } else { " UNION ALL SELECT * FROM (" });
            self.rows(&mut query, &part);
            query.push(format!(") AS part_{n}"));
        }
        query.push(") AS listed ORDER BY created_at DESC, id DESC LIMIT ").push_bind(self.limit);
        query
    }

    fn rows<DB: Database>(&self, query: &mut QueryBuilder<DB>, part: &Part<'_>)
    where
        for<'q> I: Encode<'q, DB> + Type<DB> + 'q,
        for<'q> String: Encode<'q, DB> + Type<DB>,
        for<'q> Vec<u8>: Encode<'q, DB> + Type<DB>,
        for<'q> i64: Encode<'q, DB> + Type<DB>,
    {
        let Tables { rental, tag, digests, live_index } = self.tables;
        // The table that is walked, and what it calls the rental.
        let (walked, id) = match part {
            Part::Tagged(..) => ("tag", "rental_id"),
            _ => ("rental", "id"),
        };
        query.push(format!("SELECT rental.created_at, rental.id, rental.body FROM {rental} AS rental"));
        match part {
            Part::Tagged(..) => query.push(format!(" JOIN {tag} AS tag ON tag.rental_id = rental.id")),
            Part::Live(_) => query.push(live_index),
            Part::All | Part::Ended(_) => query,
        };
        query.push(format!(" WHERE {walked}.host_id = ")).push_bind(self.host.to_string());
        if let Some(renter) = &self.filter.renter {
            query.push(format!(" AND {walked}.renter = ")).push_bind(renter.to_string());
        }
        match part {
            Part::All => {}
            Part::Live(phases) => {
                query.push(format!(
                    " AND rental.phase <> 'ended' AND rental.phase IN ({})",
                    words(phases, Phase::as_str)
                ));
            }
            Part::Ended(end) => {
                query.push(format!(" AND rental.phase = 'ended' AND rental.end_kind = '{}'", end.as_str()));
            }
            Part::Tagged(name, value) => {
                if *digests {
                    query.push(" AND tag.digest = ").push_bind(digest(name, value));
                } else {
                    query.push(" AND tag.name = ").push_bind((*name).to_owned());
                    query.push(" AND tag.value = ").push_bind((*value).to_owned());
                }
                self.states(query);
            }
        }
        self.name_and_label(query, part);
        if let Some((at, after)) = &self.after {
            query.push(format!(" AND ({walked}.created_at, {walked}.{id}) < (")).push_bind(*at);
            query.push(", ").push_bind(after.clone()).push(")");
        }
        query.push(format!(" ORDER BY {walked}.created_at DESC, {walked}.{id} DESC LIMIT ")).push_bind(self.limit);
    }

    fn states<DB: Database>(&self, query: &mut QueryBuilder<DB>) {
        let Filter { phases, ends, .. } = self.filter;
        let any_of = [
            (!phases.is_empty()).then(|| format!("rental.phase IN ({})", words(phases, Phase::as_str))),
            (!ends.is_empty()).then(|| format!("rental.end_kind IN ({})", words(ends, EndKind::as_str))),
        ];
        let any_of: Vec<String> = any_of.into_iter().flatten().collect();
        if !any_of.is_empty() {
            query.push(format!(" AND ({})", any_of.join(" OR ")));
        }
    }

    /// Adds the conditions that are not what is walked.
    fn name_and_label<DB: Database>(&self, query: &mut QueryBuilder<DB>, part: &Part<'_>)
    where
        for<'q> String: Encode<'q, DB> + Type<DB>,
    {
        let walked = if let Part::Tagged(name, _) = part { Some(*name) } else { None };
        if let Some(name) = &self.filter.name
            && walked != Some(OWN_NAME)
        {
            query.push(" AND rental.name = ").push_bind(name.to_string());
        }
        if let Some((name, value)) = &self.filter.label
            && walked != Some(name)
        {
            let tag = self.tables.tag;
            query.push(format!(
                " AND EXISTS (SELECT 1 FROM {tag} AS label WHERE label.rental_id = rental.id AND label.name = "
            ));
            query.push_bind(name.clone()).push(" AND label.value = ").push_bind(value.clone()).push(")");
        }
    }
}

/// Words of our own, for a list in a statement.
fn words<T: Copy>(values: &[T], word: fn(T) -> &'static str) -> String {
    values.iter().map(|value| format!("'{}'", word(*value))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[cfg(all(feature = "postgres", feature = "sqlite"))]
mod tests {
    use sqlx::{Postgres, Row as _, Sqlite};

    use super::*;
    use crate::postgres::PostgresStore;
    use crate::sqlite::SqliteStore;

    /// One filter of each kind that a list is asked for by.
    fn filters() -> Vec<(&'static str, Filter)> {
        let label = Some(("team".to_owned(), "red".to_owned()));
        let renter = || Some("alice".parse().unwrap());
        let name = || Some("mine".parse().unwrap());
        let all = Filter::default;
        let ended = vec![Phase::Ended];
        vec![
            ("all", all()),
            ("renter", Filter { renter: renter(), ..all() }),
            ("ready", Filter { phases: vec![Phase::Ready], ..all() }),
            ("ended", Filter { phases: ended.clone(), ..all() }),
            ("failed", Filter { ends: vec![EndKind::Failed], ..all() }),
            ("renter, failed", Filter { renter: renter(), ends: vec![EndKind::Failed], ..all() }),
            ("renter, ready or ended", Filter { renter: renter(), phases: vec![Phase::Ready, Phase::Ended], ..all() }),
            ("name", Filter { name: name(), ..all() }),
            ("renter, name", Filter { renter: renter(), name: name(), ..all() }),
            ("renter, name, ended", Filter { renter: renter(), name: name(), phases: ended, ..all() }),
            ("label", Filter { label: label.clone(), ..all() }),
            ("renter, label", Filter { renter: renter(), label, ..all() }),
        ]
    }

    #[tokio::test]
    async fn sqlite_walks_an_index_for_every_list() {
        let directory = tempfile::tempdir().unwrap();
        SqliteStore::open(&directory.path().join("db")).await.unwrap();
        let pool = sqlx::SqlitePool::connect(directory.path().join("db").to_str().unwrap()).await.unwrap();
        let host = "h".parse().unwrap();
        for (kind, filter) in filters() {
            for after in [None, Some((1, "id".to_owned()))] {
                let tables = &crate::sqlite::lists::TABLES;
                let listing = Listing { tables, host: &host, filter: &filter, after, limit: 50 };
                let mut query = listing.query_after::<Sqlite>("EXPLAIN QUERY PLAN ");
                let steps = query.build().fetch_all(&pool).await.unwrap();
                let steps: Vec<String> = steps.iter().map(|step| step.get("detail")).collect();
                // What is put together of pages, and of those that live, is sorted; it is short.
                let walks =
                    |step: &&String| step.starts_with("SCAN ") && !step.contains("part_") && !step.contains("listed");
                assert_eq!(steps.iter().find(walks), None, "{kind}: {steps:#?}");
                let is_live = filter.phases.iter().any(|phase| *phase != Phase::Ended);
                assert_eq!(
                    is_live,
                    steps.iter().any(|step| step.contains("gpurent_rental_live ")),
                    "{kind}: {steps:#?}"
                );
                let sorts = steps.iter().filter(|step| step.contains("TEMP B-TREE")).count();
                let lives = usize::from(filter.phases.contains(&Phase::Ready));
                assert!(sorts <= 1 + lives, "{kind}: {steps:#?}");
            }
        }
    }

    #[tokio::test]
    async fn postgres_walks_an_index_for_every_list() {
        let url = std::env::var("DATABASE_URL").expect("DATABASE_URL: run scripts/test");
        let name = "gpurent_plans";
        let server = sqlx::PgPool::connect(&url).await.unwrap();
        for statement in [format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"), format!("CREATE DATABASE {name}")] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&server).await.unwrap();
        }
        let url = format!("{}/{name}", url.rsplit_once('/').unwrap().0);
        PostgresStore::connect(&url).await.unwrap();
        let pool = sqlx::PgPool::connect(&url).await.unwrap();
        sqlx::raw_sql(HISTORY).execute(&pool).await.unwrap();
        let host = "h".parse().unwrap();
        for (kind, filter) in filters() {
            for after in [None, Some((1_000_000, sqlx::types::Uuid::nil()))] {
                let tables = &crate::postgres::lists::TABLES;
                let listing = Listing { tables, host: &host, filter: &filter, after, limit: 50 };
                let mut query = listing.query_after::<Postgres>("EXPLAIN ANALYZE ");
                let steps = query.build().fetch_all(&pool).await.unwrap();
                let steps: Vec<String> = steps.iter().map(|step| step.get(0)).collect();
                let read = steps.iter().filter(|step| step.contains(" Scan")).map(|step| rows(step)).max();
                assert!(!steps.iter().any(|step| step.contains("Seq Scan")), "{kind}: {steps:#?}");
                assert!(read <= Some(100), "{kind}: {steps:#?}");
                let dropped = steps.iter().filter(|step| step.contains("Rows Removed")).map(|step| number(step)).max();
                assert!(dropped <= Some(100), "{kind}: {steps:#?}");
            }
        }
    }

    /// How many rows a step of a plan gave.
    fn rows(step: &str) -> u64 {
        number(step.rsplit_once("rows=").unwrap().1)
    }

    fn number(text: &str) -> u64 {
        let digits: String =
            text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }

    /// Forty thousand that ended, every third one alice's, every fortieth failed; thirty that live.
    const HISTORY: &str = "
        INSERT INTO gpurent.rental (id, host_id, renter, name, phase, end_kind, revision, created_at, ended_at, fingerprint, body)
        SELECT gen_random_uuid(), 'h', CASE WHEN n % 3 = 0 THEN 'alice' ELSE 'r' || n % 100 END,
               CASE WHEN n > 39970 THEN 'n' || n ELSE 'mine' END,
               CASE WHEN n > 39970 THEN 'ready' ELSE 'ended' END,
               CASE WHEN n > 39970 THEN NULL WHEN n % 40 = 0 THEN 'failed' ELSE 'expired' END,
               1, n * 1000, n * 1000, '', '{}'
        FROM generate_series(1, 40000) AS n;
        WITH tag AS (
            SELECT host_id, renter, '' AS name, name AS value, created_at, id FROM gpurent.rental
            UNION ALL
            SELECT host_id, renter, 'team', CASE WHEN created_at % 7000 = 0 THEN 'red' ELSE 'blue' END, created_at, id
            FROM gpurent.rental
        )
        INSERT INTO gpurent.tag (host_id, renter, name, value, digest, created_at, rental_id)
        SELECT host_id, renter, name, value, substr(sha256(convert_to(name || '=' || value, 'UTF8')), 1, 16), created_at, id
        FROM tag;
        ANALYZE";
}
