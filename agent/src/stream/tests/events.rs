//! What may happen, in all orders.

use proptest::prelude::*;

/// What happens on a host between two ticks, or to a client.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Make {
        below: usize,
    },
    /// The cgroup at this place among those that live grows by so much.
    Grow {
        at: usize,
        usec: u16,
    },
    /// It becomes known what runs in it.
    Name {
        at: usize,
    },
    /// Only what the follower does not want changes.
    Fork {
        at: usize,
    },
    Remove {
        at: usize,
        how: HowRemoved,
    },
    Tick {
        is_cut: bool,
    },
    /// The client takes what there is.
    Take,
    /// The client is gone, and comes back with the token of what it took last.
    Reconnect,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum HowRemoved {
    Seen,
    Unseen,
    Lost,
}

fn event() -> impl Strategy<Value = Event> {
    let how = prop_oneof![
        4 => Just(HowRemoved::Seen),
        1 => Just(HowRemoved::Unseen),
        1 => Just(HowRemoved::Lost),
    ];
    prop_oneof![
        3 => (0..4_usize).prop_map(|below| Event::Make { below }),
        4 => (0..8_usize, 0..40_u16).prop_map(|(at, usec)| Event::Grow { at, usec }),
        1 => (0..8_usize).prop_map(|at| Event::Fork { at }),
        2 => (0..8_usize).prop_map(|at| Event::Name { at }),
        2 => (0..8_usize, how).prop_map(|(at, how)| Event::Remove { at, how }),
        5 => prop::bool::weighted(0.1).prop_map(|is_cut| Event::Tick { is_cut }),
        4 => Just(Event::Take),
        1 => Just(Event::Reconnect),
    ]
}

/// What happens, and what the follower wants.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) events: Vec<Event>,
    pub(super) whole_host: bool,
    pub(super) max_depth: Option<u32>,
    pub(super) pods_alone: bool,
    pub(super) forgets: bool,
}

pub(super) fn seen() -> impl Strategy<Value = Seen> {
    let events = prop::collection::vec(event(), 0..20);
    let max_depth = prop::option::weighted(0.3, 0..3_u32);
    let wants = (prop::bool::weighted(0.7), max_depth, prop::bool::weighted(0.3), any::<bool>());
    (events, wants).prop_map(|(events, (whole_host, max_depth, pods_alone, forgets))| Seen {
        events,
        whole_host,
        max_depth,
        pods_alone,
        forgets,
    })
}
