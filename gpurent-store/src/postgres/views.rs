//! Views for tools that know the tables of other platforms: opt-in, in a schema of their own choice.
//!
//! A view shows what such a table showed, under its own column names, and never a secret: those columns
//! are NULL.

use gpurent_core::error::ValidationError;
use gpurent_core::store::StoreError;
use sqlx::AssertSqlSafe;

use super::PostgresStore;
use crate::error::bounded;

/// Which views are made, and where.
///
/// | view | shows |
/// |---|---|
/// | `rentals` | the table of the `rent` protocol; `status` is `active`, `expired` or `terminated` |
/// | `port_allocations` | the table of the `dashboard` protocol: each renter's own ports |
#[derive(Clone, Debug)]
pub struct CompatibilityViews {
    schema: String,
}

impl CompatibilityViews {
    /// All views, in an existing schema or one that is made.
    ///
    /// # Errors
    /// Refuses a schema that is not a plain lower-case name.
    pub fn in_schema(schema: &str) -> Result<Self, ValidationError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let begins_well = schema.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        if !begins_well || schema.len() > 63 || !schema.chars().all(plain) || schema == "gpurent" {
            return Err(ValidationError::new("schema", "must be a lower-case name, and not gpurent"));
        }
        Ok(Self { schema: schema.to_owned() })
    }

    /// `duration_hours` is rounded up; `expires_at` is an estimate until the rental is ready, and NULL while it is
    /// suspended.
    fn statements(&self) -> String {
        let schema = &self.schema;
        format!(
            r#"CREATE SCHEMA IF NOT EXISTS "{schema}";
            CREATE OR REPLACE VIEW "{schema}".rentals AS
            SELECT row_number() OVER (ORDER BY created_at, id)::integer AS id,
                   id::text::varchar(255) AS rental_id,
                   host_id::varchar(255) AS host_id,
                   coalesce(body ->> 'container', '')::varchar(255) AS container_id,
                   coalesce(body #>> '{{gpus,0,model}}', body #>> '{{spec,gpu,selector,model}}',
                       body #>> '{{spec,gpu,selector,uuid}}')::varchar(255) AS gpu_type,
                   (body #>> '{{spec,image}}')::varchar(255) AS os_image,
                   ceil((body #>> '{{spec,term}}')::numeric / 3600000000)::integer AS duration_hours,
                   CASE body ->> 'credential' WHEN 'password' THEN 'password' ELSE 'ssh_key' END::varchar(50)
                       AS auth_type,
                   NULL::varchar(255) AS password,
                   NULL::text AS ssh_key,
                   name::varchar(255) AS instance_name,
                   NULL::jsonb AS environment_variables,
                   (SELECT jsonb_object_agg(
                        (port ->> 'container') || coalesce('/' || (port ->> 'transport'), ''), port ->> 'host')
                    FROM jsonb_array_elements(body -> 'ports') AS port) AS port_mappings,
                   (to_timestamp(created_at / 1000000.0) AT TIME ZONE 'UTC') AS created_at,
                   (to_timestamp(coalesce(expires_at, CASE WHEN jsonb_array_length(body -> 'segments') = 0
                       THEN created_at + (body #>> '{{spec,term}}')::bigint END) / 1000000.0)
                       AT TIME ZONE 'UTC') AS expires_at,
                   CASE WHEN phase <> 'ended' THEN 'active' WHEN end_kind = 'expired' THEN 'expired'
                        ELSE 'terminated' END::varchar(50) AS status,
                   (SELECT (port ->> 'host')::integer FROM jsonb_array_elements(body -> 'ports') AS port
                    WHERE port ->> 'container' = '22' AND port ->> 'transport' IS NULL) AS ssh_port,
                   (SELECT (port ->> 'host')::integer FROM jsonb_array_elements(body -> 'ports') AS port
                    WHERE port ->> 'container' = '8080' AND port ->> 'transport' IS NULL) AS web_port
            FROM gpurent.rental;
            CREATE OR REPLACE VIEW "{schema}".port_allocations AS
            SELECT renter::varchar(255) AS username, first_port AS start_port, last_port AS end_port, allocated_at
            FROM gpurent.port_range"#
        )
    }
}

impl PostgresStore {
    /// Makes the views, or brings them up to date.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the database does not answer, or has a table of that name.
    pub async fn add_views(&self, views: &CompatibilityViews) -> Result<(), StoreError> {
        // Put together from a name that was checked.
        let statements = AssertSqlSafe(views.statements());
        let mut turn = bounded(self.connections.begin()).await?;
        bounded(turn.execute_all(statements)).await?;
        bounded(turn.end()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_a_plain_name() {
        assert!(CompatibilityViews::in_schema("platform_1").is_ok());
        for name in ["", "Public", "a b", "x\"; DROP SCHEMA gpurent; --", "1a", "gpurent"] {
            assert!(CompatibilityViews::in_schema(name).is_err(), "{name}");
        }
    }
}
