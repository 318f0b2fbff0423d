//! The configuration system as a daemon and its operator see it: precedence, printed texts, and every error's words.
#![allow(clippy::needless_raw_string_hashes)] // expect-test writes its literals with hashes

mod example;
mod refused;

use std::path::PathBuf;

use cgfleet_config::{Daemon, Outcome, markdown};
use expect_test::expect;

use example::{Case, ExampleConfig};

#[test]
fn a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default() {
    for sources in 0..8 {
        let (file, env, flag) = (sources & 1 != 0, sources & 2 != 0, sources & 4 != 0);
        let mut case = Case::new(if flag { &["--hosts-max", "44"] } else { &[] });
        if file {
            case = case.file("hosts_max = 22");
        }
        if env {
            case = case.env("CGFLEET_EXAMPLE_HOSTS_MAX", "33");
        }
        let expect = match (file, env, flag) {
            (_, _, true) => 44,
            (_, true, _) => 33,
            (true, _, _) => 22,
            _ => 8,
        };
        assert_eq!(case.config().hosts_max, expect, "file {file}, environment {env}, flag {flag}");
    }
}

#[test]
fn text_becomes_the_type_of_its_key() {
    let config = Case::new(&["--hostname", "123", "--excludes", r#"["a", "b"]"#, "--sample-interval=1m"])
        .env("CGFLEET_EXAMPLE_INSECURE", "true")
        .env("CGFLEET_EXAMPLE_STATE_DIR", "/var/lib/x")
        .env("CGFLEET_EXAMPLE_HOSTS_MAX", "")
        .env("DATABASE_URL", "postgres://db/x")
        .config();
    assert_eq!(config.hostname, "123");
    assert_eq!(config.excludes, ["a", "b"]);
    assert_eq!(config.sample_interval.get().as_secs(), 60);
    assert!(config.insecure);
    assert_eq!(config.state_dir.unwrap(), PathBuf::from("/var/lib/x"));
    assert_eq!(config.hosts_max, 8, "an empty variable is unset");
    assert_eq!(config.database_url.unwrap(), "postgres://db/x");
}

#[test]
fn a_bool_flag_needs_no_value() {
    let file = "insecure = true\nverbose = false\nstate_dir = \"/x\"";
    let cases: [(&[&str], bool, Option<bool>); 5] = [
        (&[], true, Some(false)),
        (&["--insecure"], true, Some(false)),
        (&["--insecure=false"], false, Some(false)),
        (&["--verbose"], true, Some(true)),
        (&["--verbose=true", "--insecure=true"], true, Some(true)),
    ];
    for (args, insecure, verbose) in cases {
        let config = Case::new(args).file(file).config();
        assert_eq!((config.insecure, config.verbose), (insecure, verbose), "{args:?}");
    }
}

#[test]
fn the_file_is_the_one_the_flag_names_else_the_environment_else_the_default() {
    let cases: [(&[&str], bool, u16); 4] = [
        (&[], false, 1),
        (&[], true, 2),
        (&["--config", "DIR/flag.toml"], true, 3),
        (&["--config=DIR/flag.toml"], false, 3),
    ];
    for (args, env, expect) in cases {
        let mut case = Case::new(args).file("hosts_max = 1");
        std::fs::write(case.dir.path().join("env.toml"), "hosts_max = 2").unwrap();
        std::fs::write(case.dir.path().join("flag.toml"), "hosts_max = 3").unwrap();
        if env {
            case = case.env("CGFLEET_EXAMPLE_CONFIG", "DIR/env.toml");
        }
        assert_eq!(case.config().hosts_max, expect, "{args:?}, environment {env}");
    }
}

#[test]
fn a_command_comes_with_the_configuration_and_its_file() {
    let outcome = Case::new(&["--hosts-max", "5", "pack", "/tmp/state"]).outcome();
    let Ok(Outcome::Command(config, asked)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((config.hosts_max, asked.command, asked.file), (5, "pack", "/tmp/state".into()));
    let check = |args: &[&str], expect: &str| {
        let error = Case::new(args).outcome().unwrap_err();
        assert!(error.contains(expect) && !error.contains('\n'), "{args:?}: {error}");
    };
    check(&["pack"], "<FILE>");
    check(&["unpack", "/tmp/state"], "[possible values: pack]");
    check(&["pack", "/tmp/state", "more"], "unexpected argument 'more'");
}

#[test]
fn what_is_printed_says_the_same_configuration_again() {
    let case = Case::new(&["--print-config", "--insecure", "--excludes", r#"["a\"b", "c"]"#])
        .file("\nlisten_address = \"0.0.0.0:7401\"\nhostname = 'C:\\x'")
        .env("CGFLEET_EXAMPLE_SAMPLE_INTERVAL", "90s")
        .env("CGFLEET_EXAMPLE_HOSTS_MAX", "5");
    let printed = case.printed();
    expect![[r##"
        # The configuration in force of cgfleet-example 1.2.3; read from: DIR/example.toml

        # The address to serve on.
        # It is a loopback address unless insecure.
        # --listen-address, CGFLEET_EXAMPLE_LISTEN_ADDRESS; from DIR/example.toml:2
        listen_address = "0.0.0.0:7401"

        # Serve other hosts without TLS.
        # --insecure, CGFLEET_EXAMPLE_INSECURE; from flag --insecure
        insecure = true

        # Log each walk.
        # --verbose, CGFLEET_EXAMPLE_VERBOSE; unset
        # verbose =

        # The host's name.
        # --hostname, CGFLEET_EXAMPLE_HOSTNAME; from DIR/example.toml:3
        hostname = 'C:\x'

        # The most hosts.
        # --hosts-max, CGFLEET_EXAMPLE_HOSTS_MAX; from environment variable CGFLEET_EXAMPLE_HOSTS_MAX
        hosts_max = 5

        # The time between two samples.
        # --sample-interval, CGFLEET_EXAMPLE_SAMPLE_INTERVAL; from environment variable CGFLEET_EXAMPLE_SAMPLE_INTERVAL
        sample_interval = "90s"

        # Cgroups to leave out.
        # --excludes, CGFLEET_EXAMPLE_EXCLUDES; from flag --excludes
        excludes = ['a"b', "c"]

        # Where state is kept.
        # --state-dir, CGFLEET_EXAMPLE_STATE_DIR; unset
        # state_dir =

        # The database; without it a private one | in the state directory.
        # --database-url, DATABASE_URL; unset
        # database_url =
    "##]].assert_eq(&printed);

    let mut same = case;
    same.args.remove(0);
    let again = Case::new(&[]).file(&printed);
    assert_eq!(again.config(), same.config());
}

#[test]
fn a_password_is_not_printed() {
    let case = Case::new(&["--print-config"]).env("DATABASE_URL", "postgres://u:geheim@db/x");
    let printed = case.printed();
    assert!(!printed.contains("geheim"));
    expect![[r##"
        # --database-url, DATABASE_URL; from environment variable DATABASE_URL
        # The password is hidden: put it back in place of ***.
        database_url = "postgres://u:***@db/x"
    "##]]
    .assert_eq(&printed[printed.find("# --database-url").unwrap()..]);
}

#[test]
fn a_checked_configuration_is_one_line() {
    expect![[r#"
        configuration ok: no file
    "#]]
    .assert_eq(&Case::new(&["--check-config"]).printed());
    expect![[r#"
        configuration ok: DIR/example.toml
    "#]]
    .assert_eq(&Case::new(&["--check-config"]).file("hosts_max = 3").printed());
}

#[test]
fn help_shows_each_key_with_its_default_and_variable() {
    expect![[r#"
        An example.

        Usage: cgfleet-example [OPTIONS] [COMMAND] [FILE]

        Arguments:
          [COMMAND]
                  Do this with FILE, and exit

                  Possible values:
                  - pack: Packs all state.

          [FILE]
                  The file of COMMAND

        Options:
              --listen-address <VALUE>
                  The address to serve on. It is a loopback address unless insecure. [default: 127.0.0.1:7401] [env: CGFLEET_EXAMPLE_LISTEN_ADDRESS]

              --insecure[=<true|false>]
                  Serve other hosts without TLS. [default: false] [env: CGFLEET_EXAMPLE_INSECURE]

              --verbose[=<true|false>]
                  Log each walk. [env: CGFLEET_EXAMPLE_VERBOSE]

              --hostname <VALUE>
                  The host's name. [default: localhost] [env: CGFLEET_EXAMPLE_HOSTNAME]

              --hosts-max <VALUE>
                  The most hosts. [default: 8] [env: CGFLEET_EXAMPLE_HOSTS_MAX]

              --sample-interval <VALUE>
                  The time between two samples. [default: 10s] [env: CGFLEET_EXAMPLE_SAMPLE_INTERVAL]

              --excludes <VALUE>
                  Cgroups to leave out. [default: ["init.scope"]] [env: CGFLEET_EXAMPLE_EXCLUDES]

              --state-dir <VALUE>
                  Where state is kept. [env: CGFLEET_EXAMPLE_STATE_DIR]

              --database-url <VALUE>
                  The database; without it a private one | in the state directory. [env: DATABASE_URL]

              --config <FILE>
                  Read this TOML file; it must exist [default: DIR/example.toml, which may be absent] [env: CGFLEET_EXAMPLE_CONFIG]

              --print-config
                  Print the configuration in force as TOML, with where each value came from, and exit

              --check-config
                  Validate the configuration and exit

          -h, --help
                  Print help (see a summary with '-h')

          -V, --version
                  Print version

        A flag wins over the environment, the environment over the file, the file over a default.
    "#]].assert_eq(&Case::new(&["--help"]).printed());
    expect![[r#"
        cgfleet-example 1.2.3
    "#]]
    .assert_eq(&Case::new(&["--version"]).printed());
}

#[test]
fn the_reference_is_derived_from_the_struct() {
    let daemon = Daemon { default_file: "/etc/cgfleet/example.toml", ..Case::new(&[]).daemon() };
    expect![[r###"
        ## cgfleet-example

        An example.

        File: `--config FILE`, else `CGFLEET_EXAMPLE_CONFIG`, else `/etc/cgfleet/example.toml`, which may be absent.

        | Key | Default | Flag | Environment | Meaning |
        |---|---|---|---|---|
        | `listen_address` | `"127.0.0.1:7401"` | `--listen-address` | `CGFLEET_EXAMPLE_LISTEN_ADDRESS` | The address to serve on. It is a loopback address unless insecure. |
        | `insecure` | `false` | `--insecure` | `CGFLEET_EXAMPLE_INSECURE` | Serve other hosts without TLS. |
        | `verbose` | unset | `--verbose` | `CGFLEET_EXAMPLE_VERBOSE` | Log each walk. |
        | `hostname` | `"localhost"` | `--hostname` | `CGFLEET_EXAMPLE_HOSTNAME` | The host's name. |
        | `hosts_max` | `8` | `--hosts-max` | `CGFLEET_EXAMPLE_HOSTS_MAX` | The most hosts. |
        | `sample_interval` | `"10s"` | `--sample-interval` | `CGFLEET_EXAMPLE_SAMPLE_INTERVAL` | The time between two samples. |
        | `excludes` | `["init.scope"]` | `--excludes` | `CGFLEET_EXAMPLE_EXCLUDES` | Cgroups to leave out. |
        | `state_dir` | unset | `--state-dir` | `CGFLEET_EXAMPLE_STATE_DIR` | Where state is kept. |
        | `database_url` | unset | `--database-url` | `DATABASE_URL` | The database; without it a private one \| in the state directory. |
    "###]].assert_eq(&markdown::<ExampleConfig>(&daemon));
}
