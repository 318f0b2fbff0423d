-- Why: a reader has to tell "nothing happened" from "nobody looked". A gap is the stretch between two stored ticks; it is
-- written in the transaction of the tick that ends it.

create table gap (
    host_id   uuid        not null,
    -- The last tick before the gap, and the first behind it.
    after_at  timestamptz not null,
    before_at timestamptz not null,
    -- 'agent_restarted' or 'not_received'; later versions may know more.
    reason    text        not null,

    primary key (host_id, before_at)
);
