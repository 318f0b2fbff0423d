//! Programs of text views: loaded before privileges are given up, attached and pinned without any.
//!
//! Owns which of them are in use. Must not know what a column means or where a view's file is.

use std::{
    ffi::CString,
    fs, io,
    io::Read as _,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::{Ebpf, programs::ProgramFd};
use cgfleet_ebpf::abi::{self, CG_VIEW_HEADING_BYTES, cg_view};

use super::{
    AttachError, LoadError, Loader, Start,
    mapped::MappedArray,
    programs::{load_iter, mapped},
    session::{self, READ_BYTES},
    sys,
};

/// The programs of view.bpf.c.
const PROGRAMS: [&str; abi::CG_VIEWS_MAX as usize] = [
    "view_0", "view_1", "view_2", "view_3", "view_4", "view_5", "view_6", "view_7", "view_8", "view_9",
    "view_10", "view_11", "view_12", "view_13", "view_14", "view_15",
];

/// The programs, and what each is to show.
#[derive(Debug)]
pub struct ViewPrograms {
    programs: Vec<ProgramFd>,
    /// By program.
    in_use: Vec<bool>,
    settings: MappedArray<cg_view>,
    /// Keeps the programs loaded.
    _object: Ebpf,
}

/// What a view shows.
#[derive(Debug, Clone)]
pub struct ViewSettings {
    /// The ABI's columns.
    pub columns: u32,
    /// The ABI's order.
    pub order: u32,
    /// Bytes of a page, in which the kernel counts memory.
    pub page_bytes: u32,
    /// The names of all columns.
    pub heading: String,
}

/// A view that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// Every program has a view.
    #[error("all of the {programs} views there can be are in use")]
    Full {
        /// So many.
        programs: usize,
    },
    /// It cannot start at its cgroup.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The file cannot be made.
    #[error("pin the view: {0}")]
    Pin(io::Error),
    /// It cannot be read.
    #[error("read the view: {0}")]
    Read(io::Error),
}

/// What the kernel says of a view's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewLink {
    /// Its id.
    pub link_id: u32,
    /// Its program's.
    pub program_id: u32,
    /// The cgroup it starts at.
    pub cgroup_id: u64,
    /// The ABI's order.
    pub order: u32,
    /// All of its fdinfo.
    pub fdinfo: String,
}

/// A link to a program, which is in use until [`ViewPrograms::give_back`]. Whoever has a name for it can read it.
#[derive(Debug)]
pub struct PinnedView {
    program: usize,
    link: OwnedFd,
}

impl ViewPrograms {
    /// Loads the programs of so many views.
    pub fn load(loader: &mut Loader<'_>, views_max: u32) -> Result<Self, LoadError> {
        let mut object = loader.load("the views' maps", cgfleet_ebpf::VIEW_OBJECT)?;
        let names = PROGRAMS.into_iter().take(views_max as usize);
        let programs: Result<Vec<_>, _> =
            names.map(|name| load_iter(&mut object, name, loader.btf)).collect();
        let programs = programs?;
        Ok(Self {
            in_use: vec![false; programs.len()],
            programs,
            settings: mapped(&mut object, "views")?,
            _object: object,
        })
    }

    /// Attaches a program that is not in use.
    pub fn attach(&mut self, settings: &ViewSettings, start: Start<'_>) -> Result<PinnedView, ViewError> {
        let free = self.in_use.iter().position(|in_use| !in_use);
        let program = free.ok_or(ViewError::Full { programs: self.programs.len() })?;
        let mut heading = [0; CG_VIEW_HEADING_BYTES as usize];
        // The last byte stays 0.
        for (to, from) in
            heading[..CG_VIEW_HEADING_BYTES as usize - 1].iter_mut().zip(settings.heading.bytes())
        {
            *to = from;
        }
        let number = u32::try_from(program).unwrap_or(u32::MAX);
        let &ViewSettings { columns, order, page_bytes, .. } = settings;
        self.settings.set(number, cg_view { columns, order, page_bytes, padding: 0, heading });
        let link = session::attach(&self.programs[program], order, start)?;
        self.in_use[program] = true;
        Ok(PinnedView { program, link })
    }

    /// Detaches a view. It lives on while it has a name, or somebody reads it.
    pub fn give_back(&mut self, view: PinnedView) {
        self.in_use[view.program] = false;
        drop(view.link);
    }
}

impl PinnedView {
    /// Gives it this name in a BPF filesystem.
    pub fn pin(&self, path: &Path) -> Result<(), ViewError> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|error| ViewError::Pin(error.into()))?;
        sys::pin(self.link.as_fd(), &path).map_err(ViewError::Pin)
    }

    /// Its whole text, as `cat` has it.
    pub fn read(&self) -> Result<Vec<u8>, ViewError> {
        let mut session = sys::create_iter(self.link.as_fd()).map_err(ViewError::Read)?;
        let (mut text, mut buffer) = (Vec::new(), vec![0; READ_BYTES]);
        loop {
            match session.read(&mut buffer) {
                Ok(0) => return Ok(text),
                Ok(bytes) => text.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ViewError::Read(error)),
            }
        }
    }

    /// What the kernel says of it.
    pub fn link(&self) -> io::Result<ViewLink> {
        let info = sys::iter_link_info(self.link.as_fd())?;
        Ok(ViewLink {
            link_id: info.link_id,
            program_id: info.program_id,
            cgroup_id: info.cgroup_id,
            order: info.order,
            fdinfo: fs::read_to_string(format!("/proc/self/fdinfo/{}", self.link.as_raw_fd()))?,
        })
    }
}
