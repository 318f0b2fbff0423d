-- Why: what a cgroup is (path, parent, depth) does not change from tick to tick, so it is written once, with the cgroup's
-- first stored tick, and not into every payload. The kernel's cgroup ids are unique within one hierarchy and one boot.

create table cgroup (
    host_id       uuid        not null,
    -- Bit for bit the kernel's unsigned numbers.
    hierarchy_id  integer     not null,
    cgroup_id     bigint      not null,
    boot_id       uuid        not null,
    parent_id     bigint      not null,
    level         integer     not null,
    path          text        not null,
    first_tick_at timestamptz not null,

    -- boot_id comes last: "this id, in whichever boot" is asked more often than "everything of this boot".
    primary key (host_id, hierarchy_id, cgroup_id, boot_id)
);

-- A btree entry holds some 2,700 bytes and a path can be longer, so its beginning is indexed.
create index cgroup_by_path on cgroup (host_id, left(path, 500));
