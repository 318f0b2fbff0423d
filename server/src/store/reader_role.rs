//! The role that people's programs read with: the views, the tables that they are made of, and nothing else.

use sqlx::PgConnection;

use super::StoreError;

/// Makes the role where that is allowed, and lets it read. Roles are the whole cluster's and grants this database's, so this is
/// done at every start: somebody may have made the role meanwhile.
pub(super) async fn grant(connection: &mut PgConnection) -> Result<(), StoreError> {
    let failed = StoreError::during("grant cgfleet_reader what it reads");
    make_role(connection).await.map_err(&failed)?;
    let exists: bool =
        sqlx::query_scalar("select exists (select 1 from pg_roles where rolname = 'cgfleet_reader')")
            .fetch_one(&mut *connection)
            .await
            .map_err(&failed)?;
    if !exists {
        tracing::warn!(
            "there is no role cgfleet_reader to read the views with, and this server may not make it; as a superuser: \
             create role cgfleet_reader nologin, then restart this server"
        );
        return Ok(());
    }
    grant_select(connection).await.map_err(&failed)
}

/// Two servers may try at once, and this one may not be allowed to.
async fn make_role(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "do $$
         begin
             if not exists (select 1 from pg_roles where rolname = 'cgfleet_reader') then
                 create role cgfleet_reader nologin;
             end if;
         exception
             when insufficient_privilege or duplicate_object or unique_violation then null;
         end
         $$",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What the views are made of is read with the views' owner's rights; the others are for who looks closer.
async fn grant_select(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "do $$
         begin
             -- Two servers that write the same grant at once get in each other's way.
             perform pg_advisory_xact_lock(7163374719463351298);
             if not has_table_privilege('cgfleet_reader', 'cgroup_hour', 'select') then
                 grant select on cgroup_minute, cgroup_hour, host, cgroup, gap to cgfleet_reader;
             end if;
         end
         $$",
    )
    .execute(connection)
    .await?;
    Ok(())
}
