//! Privileges given up for real: each case is a process of its own, with one thread, begun as somebody else.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, ExitCode},
    thread,
};

use cgfleet_privileges::{PrivilegeError, RunAs};

/// A case: how its process begins (setpriv(1)), where its state directory is, and what is said, if it is refused.
struct Case {
    name: &'static str,
    begin: &'static [&'static str],
    state_dir: &'static str,
    refusal: Option<&'static str>,
}

const ORDINARY: &[&str] = &["--reuid=65534", "--regid=65534", "--clear-groups"];

const CASES: &[Case] = &[
    Case { name: "root", begin: &[], state_dir: "new/state", refusal: None },
    Case { name: "an ordinary user", begin: ORDINARY, state_dir: "nobodys/state", refusal: None },
    Case {
        name: "a user with ambient capabilities",
        begin: &[
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=+bpf,+perfmon",
            "--ambient-caps=+bpf,+perfmon",
        ],
        state_dir: "nobodys/other",
        refusal: None,
    },
    Case {
        name: "root that may not empty the bounding set",
        begin: &["--bounding-set=-setpcap"],
        state_dir: "unbound",
        refusal: None,
    },
    Case {
        name: "root that may not change its user",
        begin: &["--bounding-set=-setuid"],
        state_dir: "kept",
        refusal: Some("become the user: Operation not permitted (os error 1); start the daemon as an unpriv"),
    },
    Case {
        name: "a state directory that the user cannot reach",
        begin: &[],
        state_dir: "closed/below/it",
        refusal: Some("/closed: allow it (chmod o+x)"),
    },
];

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    if let (Some("case"), Some(state_dir), Some(secret)) =
        (arguments.next().as_deref(), arguments.next(), arguments.next())
    {
        return give_up(Path::new(&state_dir), Path::new(&secret));
    }
    for case in CASES {
        check(case);
        println!("{} ... ok", case.name);
    }
    ExitCode::SUCCESS
}

fn check(case: &Case) {
    let dir = tempfile::Builder::new().prefix("cgfleet-privileges-").tempdir_in("/tmp").unwrap();
    let make = |below: &str, mode| {
        fs::create_dir(dir.path().join(below)).unwrap();
        fs::set_permissions(dir.path().join(below), fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    make("nobodys", 0o777);
    make("closed", 0o700);
    let secret = dir.path().join("secret");
    fs::write(&secret, "").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    // The checkout may be in a directory that is closed to others.
    let program = dir.path().join("program");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();

    let output = Command::new("setpriv")
        .args(case.begin)
        .arg(program)
        .arg("case")
        .arg(dir.path().join(case.state_dir))
        .arg(&secret)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match case.refusal {
        None => assert!(output.status.success(), "{}: {said}", case.name),
        Some(refusal) => {
            assert_eq!(output.status.code(), Some(2), "{}: {said}", case.name);
            assert!(said.contains(refusal) && said.lines().count() == 1, "{}: {said}", case.name);
        }
    }
}

/// What a daemon does, and what it can do afterwards.
fn give_up(state_dir: &Path, secret: &Path) -> ExitCode {
    let started = || -> Result<(), PrivilegeError> {
        let mut run_as = RunAs::resolve("nobody")?;
        run_as.own_directory(state_dir)?;
        run_as.drop_privileges()
    };
    if let Err(error) = started() {
        eprintln!("{error}");
        return ExitCode::from(2);
    }
    fs::write(state_dir.join("file"), "").unwrap();
    assert!(fs::read(secret).is_err(), "root's files are open");
    let status = fs::read_to_string("/proc/self/status").unwrap();
    for line in
        ["Uid:\t65534\t65534\t65534\t65534", "Groups:\t ", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"]
    {
        assert!(status.contains(line), "no {line:?} in {status}");
    }
    // What is started later has no more: a thread, and a program that would be root by its mode.
    let inherited = thread::spawn(|| fs::read_to_string("/proc/thread-self/status").unwrap()).join().unwrap();
    assert!(inherited.contains("CapPrm:\t0000000000000000"), "{inherited}");
    ExitCode::SUCCESS
}
