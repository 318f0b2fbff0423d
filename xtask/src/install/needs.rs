//! What each job needs, how to see that it is there, and the packages that bring it.
//!
//! Presence is a capability that is tried, never a package version that is read.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::Job;
use crate::{checkout::Checkout, command};

/// Something that a job cannot do without.
pub(super) struct Need {
    pub(super) what: &'static str,
    pub(super) why: &'static str,
    pub(super) jobs: &'static [Job],
    pub(super) present: fn(&Checkout) -> bool,
    pub(super) packages: Packages,
}

impl Need {
    /// Whether nothing can be built or started without it.
    pub(super) fn stops_everything(&self) -> bool {
        self.jobs.iter().any(|job| matches!(job, Job::Build | Job::Demo))
    }
}

/// Alternative sets of packages: the first set that apt knows in full is taken.
pub(super) type AptAlternatives = &'static [&'static [&'static str]];

/// Where a need comes from.
#[derive(Clone, Copy)]
pub(super) enum Packages {
    Apt(AptAlternatives),
    Rustup(&'static [&'static str]),
    /// Into target/venv.
    Pip(&'static [&'static str]),
    /// Into target/buf.
    Npm(&'static [&'static str]),
}

pub(super) const NEEDS: &[Need] = &[
    Need {
        what: "a C compiler and the C library's headers",
        why: "zstd-sys compiles C",
        jobs: &[Job::Build],
        present: |_| on_path("cc") && Path::new("/usr/include/stdlib.h").exists(),
        packages: Packages::Apt(&[&["gcc", "libc6-dev"]]),
    },
    Need {
        what: "clang 15 or newer that targets BPF",
        why: "compiles ebpf/",
        jobs: &[Job::Build],
        present: |_| chosen_clang().is_some_and(|clang| targets_bpf(&clang)),
        packages: Packages::Apt(&[&["clang-19"], &["clang"]]),
    },
    Need {
        what: "libclang",
        why: "bindgen reads the records' C header with it",
        jobs: &[Job::Build],
        present: |_| libclang_dirs().iter().any(|dir| holds_libclang(dir)),
        packages: Packages::Apt(&[&["libclang1-19"], &["libclang1"]]),
    },
    Need {
        what: "/usr/include/bpf/bpf_helpers.h",
        why: "the BPF programs include it",
        jobs: &[Job::Build],
        present: |_| Path::new("/usr/include/bpf/bpf_helpers.h").exists(),
        packages: Packages::Apt(&[&["libbpf-dev"]]),
    },
    Need {
        what: "/usr/include/linux/bpf.h",
        why: "the BPF programs include it",
        jobs: &[Job::Build],
        present: |_| Path::new("/usr/include/linux/bpf.h").exists(),
        packages: Packages::Apt(&[&["linux-libc-dev"]]),
    },
    Need {
        what: "Postgres server binaries",
        why: "the server runs a private Postgres",
        jobs: &[Job::Demo, Job::Test],
        present: |_| {
            postgres_dirs().iter().any(|dir| dir.join("initdb").exists() && dir.join("postgres").exists())
        },
        packages: Packages::Apt(&[&["postgresql"]]),
    },
    Need {
        what: "pgbouncer",
        why: "tests put it between the server and Postgres",
        jobs: &[Job::Test],
        present: |_| Path::new("/usr/sbin/pgbouncer").exists(),
        packages: Packages::Apt(&[&["pgbouncer"]]),
    },
    Need {
        what: "ip",
        why: "tests put agents into network namespaces",
        jobs: &[Job::Test],
        present: |_| on_path("ip"),
        packages: Packages::Apt(&[&["iproute2"]]),
    },
    Need {
        what: "qemu-system-x86_64",
        why: "boots the guests",
        jobs: &[Job::Vm],
        present: |_| on_path("qemu-system-x86_64"),
        packages: Packages::Apt(&[&["qemu-system-x86"]]),
    },
    Need {
        what: "busybox",
        why: "a guest's shell and its commands",
        jobs: &[Job::Vm],
        present: |_| on_path("busybox"),
        packages: Packages::Apt(&[&["busybox-static"], &["busybox"]]),
    },
    Need {
        what: "setpriv, unshare and mount",
        why: "start the guests, and agents that may do and see less",
        jobs: &[Job::Test, Job::Vm],
        present: |_| ["setpriv", "unshare", "mount"].iter().all(|program| on_path(program)),
        packages: Packages::Apt(&[&["util-linux", "mount"]]),
    },
    Need {
        what: "perl",
        why: "advises the kernel on memory, in the tests' loads",
        jobs: &[Job::Test, Job::Vm],
        present: |_| on_path("perl"),
        packages: Packages::Apt(&[&["perl-base"]]),
    },
    Need {
        what: "victoria-metrics",
        why: "what the benchmark store compares the store's disk with",
        jobs: &[Job::Bench],
        present: |_| on_path("victoria-metrics"),
        packages: Packages::Apt(&[&["victoria-metrics"]]),
    },
    Need {
        what: "strip",
        why: "makes the programs fit a guest's memory",
        jobs: &[Job::Vm],
        present: |_| on_path("strip"),
        packages: Packages::Apt(&[&["binutils"]]),
    },
    Need {
        what: "xz",
        why: "unpacks kernel modules for guests",
        jobs: &[Job::Vm],
        present: |_| on_path("xz"),
        packages: Packages::Apt(&[&["xz-utils"]]),
    },
    Need {
        what: "python3 with venv",
        why: "a generic gRPC client in the tests, clang-format in the lints",
        jobs: &[Job::Test, Job::Lint],
        present: |_| command::succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"])),
        packages: Packages::Apt(&[&["python3", "python3-venv"]]),
    },
    Need {
        what: "npm",
        why: "installs buf",
        jobs: &[Job::Lint],
        present: |checkout| checkout.buf().exists() || (on_path("npm") && on_path("node")),
        packages: Packages::Apt(&[&["nodejs", "npm"]]),
    },
    Need {
        what: "rustfmt and clippy",
        why: "the lints",
        jobs: &[Job::Lint],
        present: |_| {
            ["fmt", "clippy"].iter().all(|tool| command::succeeds(command::cargo().args([tool, "--version"])))
        },
        packages: Packages::Rustup(&["rustfmt", "clippy"]),
    },
    Need {
        what: "grpcio and its reflection client in target/venv",
        why: "a generic gRPC client in the tests",
        jobs: &[Job::Test],
        present: |checkout| {
            let imports = "import grpc, grpc_reflection.v1alpha, google.protobuf.json_format";
            command::succeeds(Command::new(checkout.venv_program("python")).args(["-c", imports]))
        },
        packages: Packages::Pip(&["grpcio", "grpcio-reflection", "protobuf"]),
    },
    Need {
        what: "clang-format 19 in target/venv",
        why: "the lints; another version would format differently",
        jobs: &[Job::Lint],
        present: |checkout| {
            let version =
                command::capture(Command::new(checkout.venv_program("clang-format")).arg("--version"));
            version.is_ok_and(|text| text.contains("version 19."))
        },
        packages: Packages::Pip(&["clang-format==19.*"]),
    },
    Need {
        what: "buf in target/buf",
        why: "lints the protos and finds breaking changes",
        jobs: &[Job::Lint],
        present: |checkout| checkout.buf().exists(),
        packages: Packages::Npm(&["@bufbuild/buf"]),
    },
];

/// The clang that ebpf/build.rs will take: the one that CLANG names, else the first of its list.
fn chosen_clang() -> Option<String> {
    let known = ["clang-19", "clang", "clang-18", "clang-17", "clang-16", "clang-15"];
    let first = || known.into_iter().find(|clang| on_path(clang)).map(str::to_owned);
    env::var("CLANG").ok().or_else(first)
}

/// clang 14 and older know no BTF for 64-bit enums and for type tags.
const BPF_PROGRAM: &str = "
#if __clang_major__ < 15
#error too old
#endif
struct kernel { int field; } __attribute__((preserve_access_index));
int read(struct kernel *k) { return k->field; }
";

fn targets_bpf(clang: &str) -> bool {
    let mut compile = Command::new(clang);
    compile.args(["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-x", "c", "-c", "-", "-o", "/dev/null"]);
    compile.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = compile.spawn() else { return false };
    // A clang that does not read its input fails below.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(BPF_PROGRAM.as_bytes()));
    child.wait().is_ok_and(|status| status.success())
}

/// Where clang-sys looks, without llvm-config.
fn libclang_dirs() -> Vec<PathBuf> {
    let mut dirs = vec![PathBuf::from("/usr/lib"), "/usr/lib64".into(), "/usr/local/lib".into()];
    dirs.extend(env::var_os("LIBCLANG_PATH").map(PathBuf::from));
    dirs.extend(children("/usr/lib", "").into_iter().filter(|dir| dir.ends_with(multiarch())));
    dirs.extend(children("/usr/lib", "llvm-").into_iter().map(|dir| dir.join("lib")));
    dirs
}

fn multiarch() -> String {
    format!("{}-linux-gnu", env::consts::ARCH)
}

fn holds_libclang(dir: &Path) -> bool {
    // libclang.so, libclang.so.1, libclang-19.so.1; neither libclang-cpp.so nor a static library.
    children(dir, "libclang").iter().filter_map(|file| file.file_name()?.to_str()).any(|name| {
        let version = name.trim_start_matches("libclang").trim_start_matches('-');
        version.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').starts_with("so")
            && !version.starts_with('c')
    })
}

/// Where Debian, Red Hat and a source build put the server's binaries.
fn postgres_dirs() -> Vec<PathBuf> {
    let mut dirs = path_dirs();
    dirs.extend(children("/usr/lib/postgresql", "").into_iter().map(|version| version.join("bin")));
    dirs.extend(children("/usr", "pgsql-").into_iter().map(|version| version.join("bin")));
    dirs.push("/usr/local/pgsql/bin".into());
    dirs
}

fn path_dirs() -> Vec<PathBuf> {
    env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

fn on_path(program: &str) -> bool {
    path_dirs().iter().any(|dir| dir.join(program).exists())
}

/// The entries of a directory whose names start so; none if there is no such directory.
fn children(dir: impl AsRef<Path>, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_c_interface_counts_as_libclang() {
        let check = |name: &str, expect: bool| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(name), "").unwrap();
            assert_eq!(holds_libclang(dir.path()), expect, "{name}");
        };
        check("libclang.so", true);
        check("libclang.so.1", true);
        check("libclang-19.so.19", true);
        check("libclang-19.1.7.so", true);
        check("libclang-cpp.so.14", false);
        check("libclangAST.a", false);
    }

    #[test]
    fn a_name_that_is_no_compiler_targets_nothing() {
        assert!(!targets_bpf("no-such-clang"));
        assert!(!targets_bpf("false"));
    }
}
