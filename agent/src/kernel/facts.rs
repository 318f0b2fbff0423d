//! What has to be known of the running kernel before its memory statistics can be read.

use cgfleet_ebpf::abi::{self, cg_facts};

use super::{
    LoadError, Loader, Start,
    kallsyms::Symbols,
    programs::{load_iter, mapped, missing, refused},
    session,
};

/// Tables of mm/memcontrol.c that say at which place of an array an item is.
const STATE_TABLE: &str = "mem_cgroup_stats_index";
const EVENTS_TABLE: &str = "mem_cgroup_events_index";

/// A table of the kernel's that says at which place of an array an item is.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// Its first bytes, and what follows it if it is shorter.
    pub bytes: &'a [u8],
    /// The enum's last number and one: an entry each.
    pub entries: usize,
}

/// What the running kernel calls at which number, and how it flushes.
#[derive(Debug, Clone)]
pub struct Facts {
    facts: cg_facts,
    /// Whether a flush of a cgroup's own rstat leaves its controllers' statistics alone: from 6.16 on
    /// (kernel/cgroup/rstat.c, css_rstat_flush).
    pub flushes_by_subsystem: bool,
}

impl Facts {
    /// Asks the kernel, in one session on a cgroup: whichever is this process's own root.
    pub(super) fn read(loader: &mut Loader<'_>, buffer: &mut [u8]) -> Result<Self, LoadError> {
        let mut object = loader.load("the facts' map", cgfleet_ebpf::FACTS_OBJECT)?;
        let program = load_iter(&mut object, "read_facts", loader.btf)?;
        let mut map = mapped::<cg_facts>(&mut object, "facts")?;
        let symbols = Symbols::read(&[STATE_TABLE, EVENTS_TABLE]).unwrap_or_default();
        map.set_only(cg_facts {
            state_table: symbols.address(STATE_TABLE).unwrap_or_default(),
            events_table: symbols.address(EVENTS_TABLE).unwrap_or_default(),
            state_words: 0,
            events_words: 0,
            state_items: 0,
            events_items: 0,
            state_table_read: 0,
            events_table_read: 0,
            items: [abi::CG_NONE; abi::CG_ITEMS as usize],
            state_table_bytes: [0; abi::CG_TABLE_BYTES_MAX as usize],
            events_table_bytes: [0; abi::CG_TABLE_BYTES_MAX as usize],
        });
        session::run(&program, abi::CG_ORDER_SELF_ONLY, Start::Id(0), buffer)
            .map_err(|error| refused("the session that reads the kernel's facts", &error))?;
        let facts = map.get(0).ok_or_else(|| missing("the facts' only entry"))?;
        Ok(Self { facts, flushes_by_subsystem: loader.has_kfunc("css_rstat_flush") })
    }

    /// The number of a `cg_memory_item` in the kernel's own enum; `None` if this kernel has no such item.
    pub fn item(&self, item: abi::cg_memory_item) -> Option<usize> {
        let number = self.facts.items.get(item as usize).copied()?;
        (number != abi::CG_NONE).then_some(number as usize)
    }

    /// How long the kernel's arrays are: of states, and of events.
    pub fn array_lengths(&self) -> (usize, usize) {
        let Self { facts: cg_facts { state_words, events_words, .. }, .. } = self;
        let state_max = (*state_words).min(abi::CG_MEMORY_STATE_MAX);
        (state_max as usize, (*events_words).min(abi::CG_MEMORY_EVENTS_MAX) as usize)
    }

    /// The table of states; `None` if it is not to be had here.
    pub fn state_table(&self) -> Option<Table<'_>> {
        let Self { facts: cg_facts { state_table_read, state_table_bytes, state_items, .. }, .. } = self;
        (*state_table_read != 0).then_some(Table { bytes: state_table_bytes, entries: *state_items as usize })
    }

    /// The table of events; `None` if it is not to be had here.
    pub fn events_table(&self) -> Option<Table<'_>> {
        let Self { facts: cg_facts { events_table_read, events_table_bytes, events_items, .. }, .. } = self;
        (*events_table_read != 0)
            .then_some(Table { bytes: events_table_bytes, entries: *events_items as usize })
    }
}
