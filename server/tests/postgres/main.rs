//! The server's storage on real Postgres: started by the server's own means, one for all tests of this
//! binary, a fresh database for each.

mod backup;
mod compaction;
mod external;
mod fixture;
mod heads;
mod history;
mod ingest;
mod interrupting_proxy;
mod private_postgres;
mod retention;
mod rollups;
mod spool;
mod store;
