-- Why: the server must know its hosts again after a restart. A row is written when an agent registers with something new;
-- heartbeats stay in memory, so an idle fleet writes nothing here.
-- Every table leads its key with host_id and refers to no other host, so that the schema can be sharded by host.

create table host (
    host_id        uuid        not null primary key,
    -- Byte order, so that every database lists hosts in the same order.
    hostname       text        collate "C" not null,
    boot_id        uuid        not null,
    agent_epoch    uuid        not null,
    address        text        not null,
    kernel_release text        not null,
    agent_version  text        not null,
    first_seen_at  timestamptz not null default now(),
    registered_at  timestamptz not null default now()
);

create index host_by_hostname on host (hostname, host_id);
