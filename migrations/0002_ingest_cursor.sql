-- Why: every tick is stored exactly once (docs/ingest-contract.md). The batch that stores ticks moves these rows in the same
-- transaction, and only where fence, epoch and next_seq are what its writer believes; a unique key on a table that is
-- partitioned by time could not do this.

create table ingest_cursor (
    host_id      uuid   not null primary key,
    -- Raised by whoever opens the host's stream; writes with an older one miss.
    fence        bigint not null,
    -- The last stored tick: all three null until there is one.
    epoch        uuid,
    next_seq     bigint,
    last_tick_at timestamptz,

    constraint last_tick_is_whole check (num_nulls(epoch, next_seq, last_tick_at) in (0, 3))
);
