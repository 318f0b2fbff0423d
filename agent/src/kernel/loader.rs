//! What loads programs: the running kernel's types and aya's loader, made once for all objects.
//!
//! Both are large, tens of megabytes, and needed for loading alone: when the last program is loaded they are given
//! back to the kernel.

use aya::{Btf, Ebpf, EbpfLoader};
use aya_obj::btf::BtfKind;

use super::{
    LoadError, kfunc,
    programs::{chain, refused},
    sys,
};

/// Loads objects, one after the other.
pub struct Loader<'a> {
    pub(super) btf: &'a Btf,
    /// What one object is told of maps and globals, those behind it are told too.
    pub(super) aya: EbpfLoader<'a>,
}

/// Has programs loaded, on a kernel from 6.1 on with BTF; needs CAP_BPF and CAP_PERFMON.
pub fn with_loader<T>(load: impl FnOnce(&mut Loader<'_>) -> Result<T, LoadError>) -> Result<T, LoadError> {
    // Before ours are read: aya has each new loader read and parse them, before it can be told that we have.
    let mut aya = EbpfLoader::new();
    aya.btf(None).allow_unsupported_maps();
    let btf = kernel_btf()?;
    aya.btf(Some(&btf));
    let loaded = load(&mut Loader { btf: &btf, aya });
    drop(btf);
    sys::trim_heap();
    loaded
}

/// The running kernel's own types.
fn kernel_btf() -> Result<Btf, LoadError> {
    let btf = Btf::from_sys_fs().map_err(|error| LoadError::NoBtf(chain(&error)))?;
    if btf.id_by_type_name_kind("bpf_iter__cgroup", BtfKind::Struct).is_err() {
        return Err(LoadError::NoCgroupIterator);
    }
    Ok(btf)
}

impl Loader<'_> {
    /// Has the kernel make an object's maps; `what` they are.
    pub(super) fn load(&mut self, what: &str, object: &[u8]) -> Result<Ebpf, LoadError> {
        let object = self.bound(object)?;
        self.aya.load(&object).map_err(|error| refused(what, &error))
    }

    /// Forgets what was told of maps and globals.
    pub(super) fn renew(&mut self) {
        self.aya = EbpfLoader::new();
        self.aya.btf(Some(self.btf)).allow_unsupported_maps();
    }

    /// An object with its kfuncs bound to the running kernel's.
    pub(super) fn bound(&self, object: &[u8]) -> Result<Vec<u8>, LoadError> {
        let mut object = object.to_vec();
        kfunc::bind(&mut object, |name| self.btf.id_by_type_name_kind(name, BtfKind::Func).ok())?;
        Ok(object)
    }

    /// Whether the kernel has this kfunc.
    pub(super) fn has_kfunc(&self, name: &str) -> bool {
        self.btf.id_by_type_name_kind(name, BtfKind::Func).is_ok()
    }
}
