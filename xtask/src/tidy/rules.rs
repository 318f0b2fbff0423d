//! The fences as data: which files, what they must not or must say, and why.

/// A set of files.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Everything.
    Anywhere,
    /// Below this directory of the checkout.
    Under(&'static str),
    /// Below a directory of this name, wherever it is.
    Folder(&'static str),
    /// Called so, wherever it is.
    Named(&'static str),
    /// With this extension.
    Kind(&'static str),
}

impl Place {
    pub(super) fn holds(self, path: &str) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Under(dir) => path.starts_with(dir),
            Self::Folder(name) => path.rsplit('/').skip(1).any(|folder| folder == name),
            Self::Named(name) => path.rsplit('/').next() == Some(name),
            Self::Kind(extension) => path.rsplit_once('.').is_some_and(|(_, found)| found == extension),
        }
    }
}

/// What a rule looks for. The first three read Rust only.
#[derive(Clone, Copy)]
pub(super) enum Check {
    /// None of these paths, nor anything below them, is named or used.
    NoPath(&'static [&'static str]),
    /// None of these sequences of tokens, written with spaces between them.
    NoTokens(&'static [&'static str]),
    /// No string literal contains one of these.
    NoString(&'static [&'static str]),
    /// No line contains one of these, comments included.
    NoText(&'static [&'static str]),
    /// No absolute path begins like this.
    NoRootedPath(&'static [&'static str]),
    /// The file opens with this.
    OpensWith(&'static str),
    /// The file has this line below this one, in the same section.
    SectionHas(&'static str, &'static str),
    /// The file has at most so many lines.
    LinesMax(usize),
}

/// A fence.
pub(super) struct Rule {
    pub(super) name: &'static str,
    /// What is allowed instead, as the finding's text.
    pub(super) why: &'static str,
    pub(super) files: &'static [Place],
    pub(super) except: &'static [Place],
    pub(super) check: Check,
}

/// A file that may break a rule: (rule, file, reason).
pub(super) const EXCEPTIONS: &[(&str, &str, &str)] = &[];

use Check::{LinesMax, NoPath, NoRootedPath, NoString, NoText, NoTokens, OpensWith, SectionHas};
use Place::{Anywhere, Folder, Kind, Named, Under};

/// This directory spells out what it forbids.
const TIDY_ITSELF: Place = Under("xtask/src/tidy/");

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "aya",
        why: "only agent/src/kernel talks to the kernel through aya",
        files: &[Kind("rs")],
        except: &[Under("agent/src/kernel/")],
        check: NoPath(&["aya", "aya_obj"]),
    },
    Rule {
        name: "unsafe",
        why: "unsafe code lives in agent/src/kernel only",
        files: &[Kind("rs")],
        except: &[Under("agent/src/kernel/")],
        check: NoTokens(&["unsafe", "unsafe_code"]),
    },
    Rule {
        name: "sqlx",
        why: "only server/src/store knows the database",
        files: &[Kind("rs")],
        except: &[Under("server/src/store/")],
        check: NoPath(&["sqlx"]),
    },
    Rule {
        name: "status",
        why: "tonic::Status is made in service/, rpc/ and error.rs, and read by clients; elsewhere errors are enums",
        files: &[Kind("rs")],
        except: &[
            Folder("service"),
            Named("error.rs"),
            Under("rpc/"),
            Under("cgctl/"),
            Under("integration-tests/"),
        ],
        check: NoPath(&["tonic::Status"]),
    },
    Rule {
        name: "anyhow",
        why: "anyhow is for main.rs and xtask; a library's errors are enums",
        files: &[Kind("rs")],
        except: &[Named("main.rs"), Under("xtask/"), Under("integration-tests/")],
        check: NoPath(&["anyhow"]),
    },
    Rule {
        name: "cgroupfs",
        why: "the server reads no cgroup files: its knowledge comes from agents",
        files: &[Under("server/src/")],
        except: &[],
        check: NoString(&["/sys/fs/cgroup", "cgroup.procs", "cgroup.controllers", "mountinfo"]),
    },
    Rule {
        name: "model",
        why: "the model is pure vocabulary: no I/O, no async, no wire",
        files: &[Under("model/src/")],
        except: &[],
        check: NoPath(&["std::fs", "std::io", "std::net", "std::process", "tokio", "tonic", "prost"]),
    },
    Rule {
        name: "agent-imports",
        why: "agent and server meet on the wire only",
        files: &[Under("agent/Cargo.toml")],
        except: &[],
        check: NoText(&["cgfleet-server", "../server"]),
    },
    Rule {
        name: "server-imports",
        why: "agent and server meet on the wire only",
        files: &[Under("server/Cargo.toml")],
        except: &[],
        check: NoText(&["cgfleet-agent", "cgfleet-ebpf", "../agent", "../ebpf"]),
    },
    Rule {
        name: "xtask-imports",
        why: "xtask compiles before clang is installed: no crate of the workspace",
        files: &[Under("xtask/Cargo.toml")],
        except: &[],
        check: NoText(&["cgfleet-", "path ="]),
    },
    Rule {
        name: "lints",
        why: "every crate says lints.workspace = true",
        files: &[Named("Cargo.toml")],
        except: &[Under("Cargo.toml")],
        check: SectionHas("[lints]", "workspace = true"),
    },
    Rule {
        name: "purpose",
        why: "a file opens with //!: what it owns, and what it must not know",
        files: &[Kind("rs")],
        except: &[],
        check: OpensWith("//!"),
    },
    Rule {
        name: "length",
        why: "a Rust file has at most 400 lines: split it by job",
        files: &[Kind("rs")],
        except: &[],
        check: LinesMax(400),
    },
    Rule {
        name: "unfinished",
        why: "nothing unfinished and no switched-off test is committed",
        files: &[Kind("rs")],
        except: &[],
        check: NoTokens(&["todo !", "unimplemented !", "dbg !", "# [ ignore"]),
    },
    Rule {
        name: "markers",
        why: "what is left to do is an issue, not a comment",
        files: &[
            Kind("rs"),
            Kind("c"),
            Kind("h"),
            Kind("proto"),
            Kind("sql"),
            Kind("py"),
            Kind("toml"),
            Kind("sh"),
        ],
        except: &[TIDY_ITSELF],
        check: NoText(&["FIXME", "TODO", "XXX"]),
    },
    Rule {
        name: "machine",
        why: "no file names a path of a developer's machine",
        files: &[Anywhere],
        except: &[TIDY_ITSELF],
        check: NoRootedPath(&["/work/", "/home/", "/root/"]),
    },
];
