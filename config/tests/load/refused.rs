//! Every configuration that is refused, and the one line that says so.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;

use cgfleet_config::{Checked, Daemon, load};
use expect_test::expect;

use crate::example::Case;

#[test]
fn a_bad_flag_is_refused_in_one_line() {
    Case::new(&["--listen-adress", "x"]).refused(&expect!["unexpected argument '--listen-adress' found; tip: a similar argument exists: '--listen-address'; see cgfleet-example --help"]);
    Case::new(&["--zzz"]).refused(&expect!["unexpected argument '--zzz' found; tip: to pass '--zzz' as a value, use '-- --zzz'; see cgfleet-example --help"]);
    Case::new(&["agent.toml"]).refused(&expect![
        "invalid value 'agent.toml' for '[COMMAND]'; [possible values: pack]; see cgfleet-example --help"
    ]);
    Case::new(&["--hostname"]).refused(&expect![
        "a value is required for '--hostname <VALUE>' but none was supplied; see cgfleet-example --help"
    ]);
    Case::new(&["--hostname", "a", "--hostname", "b"]).refused(&expect![
        "the argument '--hostname <VALUE>' cannot be used multiple times; see cgfleet-example --help"
    ]);
    Case::new(&["--insecure", "false"]).refused(&expect![
        "invalid value 'false' for '[COMMAND]'; [possible values: pack]; see cgfleet-example --help"
    ]);
    Case::new(&["--insecure=maybe"]).refused(&expect![[
        r#"insecure = "maybe" (flag --insecure): allowed is true or false; set it like --insecure=false"#
    ]]);
    Case::new(&["--print-config", "--check-config"]).refused(&expect![
        "the argument '--print-config' cannot be used with '--check-config'; see cgfleet-example --help"
    ]);
    Case::new(&["--listen-address", "localhost"]).refused(&expect![[r#"listen_address = "localhost" (flag --listen-address): allowed is an IP address with its port, such as 127.0.0.1:80 or [::1]:80; set it like --listen-address=127.0.0.1:7401"#]]);
    Case::new(&["--listen-address", "7401"]).refused(&expect!["listen_address = 7401 (flag --listen-address): allowed is an IP address with its port, such as 127.0.0.1:80 or [::1]:80; set it like --listen-address=127.0.0.1:7401"]);
    Case::new(&["--hosts-max", "70000"]).refused(&expect!["hosts_max = 70000 (flag --hosts-max): allowed is a whole number from 0 to 65535; set it like --hosts-max=8"]);
    Case::new(&["--hosts-max", "many\nhosts"]).refused(&expect![[r#"hosts_max = "many\nhosts" (flag --hosts-max): allowed is a whole number from 0 to 65535; set it like --hosts-max=8"#]]);
    Case::new(&["--sample-interval", "0s"]).refused(&expect![[r#"sample_interval = "0s" (flag --sample-interval): allowed is a duration above zero with its unit, such as 500ms, 10s, 5m or 1h; set it like --sample-interval=10s"#]]);
    Case::new(&["--excludes", "a"]).refused(&expect![[r#"excludes = "a" (flag --excludes): allowed is a list such as ["a", "b"]; set it like --excludes='["init.scope"]'"#]]);
    Case::new(&["--verbose=1"]).refused(&expect![
        "verbose = 1 (flag --verbose): allowed is true or false; correct it there, or leave verbose out"
    ]);
}

#[test]
fn a_bad_variable_is_refused_in_one_line() {
    Case::new(&[]).env("CGFLEET_EXAMPLE_HOSTS_MAX", "-1").refused(&expect!["hosts_max = -1 (environment variable CGFLEET_EXAMPLE_HOSTS_MAX): allowed is a whole number from 0 to 65535; set it like CGFLEET_EXAMPLE_HOSTS_MAX=8"]);
    Case::new(&[]).env("CGFLEET_EXAMPLE_INSECURE", "1").refused(&expect!["insecure = 1 (environment variable CGFLEET_EXAMPLE_INSECURE): allowed is true or false; set it like CGFLEET_EXAMPLE_INSECURE=false"]);
    Case::new(&[]).env("CGFLEET_EXAMPLE_SAMPLE_INTERVAL", "10").refused(&expect!["sample_interval = 10 (environment variable CGFLEET_EXAMPLE_SAMPLE_INTERVAL): allowed is a duration above zero with its unit, such as 500ms, 10s, 5m or 1h; set it like CGFLEET_EXAMPLE_SAMPLE_INTERVAL=10s"]);
    Case::new(&[]).env("CGFLEET_EXAMPLE_HOSTS_MAX", &"9".repeat(500)).refused(&expect![[r#"hosts_max = "99999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999… (environment variable CGFLEET_EXAMPLE_HOSTS_MAX): allowed is a whole number from 0 to 65535; set it like CGFLEET_EXAMPLE_HOSTS_MAX=8"#]]);
    let mut case = Case::new(&[]);
    case.env.insert("CGFLEET_EXAMPLE_HOSTNAME".to_owned(), OsString::from_vec(vec![0xff]));
    case.refused(&expect!["hostname (environment variable CGFLEET_EXAMPLE_HOSTNAME): the value is not UTF-8; allowed is UTF-8 text"]);
    // A flag does not excuse what it overrides.
    Case::new(&["--hosts-max=1"]).env("CGFLEET_EXAMPLE_HOSTS_MAX", "x").refused(&expect![[r#"hosts_max = "x" (environment variable CGFLEET_EXAMPLE_HOSTS_MAX): allowed is a whole number from 0 to 65535; set it like CGFLEET_EXAMPLE_HOSTS_MAX=8"#]]);
}

#[test]
fn a_bad_file_is_refused_in_one_line() {
    Case::new(&["--config", "DIR/none.toml"]).refused(&expect!["read configuration file DIR/none.toml (flag --config): No such file or directory (os error 2); name a readable TOML file with --config or CGFLEET_EXAMPLE_CONFIG"]);
    Case::new(&[]).env("CGFLEET_EXAMPLE_CONFIG", "DIR/none.toml").refused(&expect!["read configuration file DIR/none.toml (environment variable CGFLEET_EXAMPLE_CONFIG): No such file or directory (os error 2); name a readable TOML file with --config or CGFLEET_EXAMPLE_CONFIG"]);
    Case::new(&["--config", "DIR"]).refused(&expect!["read configuration file DIR (flag --config): Is a directory (os error 21); name a readable TOML file with --config or CGFLEET_EXAMPLE_CONFIG"]);
    Case::new(&[]).file(&"#".repeat(2 << 20)).refused(&expect!["read configuration file DIR/example.toml (the default): larger than the 1048576 bytes allowed; name a readable TOML file with --config or CGFLEET_EXAMPLE_CONFIG"]);
    Case::new(&[]).file("hosts_max = 1\nhostname = \n").refused(&expect!["DIR/example.toml:2: not valid TOML: string values must be quoted, expected literal string; write one key = value per line"]);
    Case::new(&[]).file("hosts_max = 1\nhosts_max = 2\n").refused(&expect![
        "DIR/example.toml:2: not valid TOML: duplicate key; write one key = value per line"
    ]);
    Case::new(&[]).file("\n\nlisten_adress = \"x\"").refused(&expect![[
        r#"DIR/example.toml:3: unknown key "listen_adress"; did you mean listen_address?"#
    ]]);
    Case::new(&[]).file("[server]\nport = 1").refused(&expect![[r#"DIR/example.toml:1: unknown key "server"; allowed are listen_address, insecure, verbose, hostname, hosts_max, sample_interval, excludes, state_dir, database_url"#]]);
    Case::new(&[]).file("# comment\nhosts_max = 70000").refused(&expect!["hosts_max = 70000 (DIR/example.toml:2): allowed is a whole number from 0 to 65535; write it like hosts_max = 8"]);
    Case::new(&[]).file("hosts_max = \"5\"").refused(&expect![[r#"hosts_max = "5" (DIR/example.toml:1): allowed is a whole number from 0 to 65535; write it like hosts_max = 8"#]]);
    Case::new(&[]).file("sample_interval = 5").refused(&expect![[r#"sample_interval = 5 (DIR/example.toml:1): allowed is a duration above zero with its unit, such as 500ms, 10s, 5m or 1h; write it like sample_interval = "10s""#]]);
    Case::new(&[]).file("excludes = [\"a\", 1]").refused(&expect![[r#"excludes = ["a", 1] (DIR/example.toml:1): allowed is a string; write it like excludes = ["init.scope"]"#]]);
    Case::new(&[]).file("hostname = 5").refused(&expect![[
        r#"hostname = 5 (DIR/example.toml:1): allowed is a string; write it like hostname = "localhost""#
    ]]);
    Case::new(&[]).file("database_url = { password = \"geheim\" }").refused(&expect![[r#"database_url = "***" (DIR/example.toml:1): allowed is a string; correct it there, or leave database_url out"#]]);
}

#[test]
fn a_broken_rule_is_refused_in_one_line() {
    let any = "0.0.0.0:7401";
    Case::new(&["--listen-address", any]).refused(&expect![[r#"listen_address = "0.0.0.0:7401" (flag --listen-address): allowed is a loopback address, or any with --insecure; set it like --listen-address=127.0.0.1:7401"#]]);
    Case::new(&[]).env("CGFLEET_EXAMPLE_LISTEN_ADDRESS", any).refused(&expect![[r#"listen_address = "0.0.0.0:7401" (environment variable CGFLEET_EXAMPLE_LISTEN_ADDRESS): allowed is a loopback address, or any with --insecure; set it like CGFLEET_EXAMPLE_LISTEN_ADDRESS=127.0.0.1:7401"#]]);
    Case::new(&["--check-config"]).file("listen_address = \"0.0.0.0:7401\"").refused(&expect![[r#"listen_address = "0.0.0.0:7401" (DIR/example.toml:1): allowed is a loopback address, or any with --insecure; write it like listen_address = "127.0.0.1:7401""#]]);
    Case::new(&["--print-config", "--hosts-max=0"]).refused(&expect![
        "hosts_max = 0 (flag --hosts-max): allowed is 1 or more; set it like --hosts-max=8"
    ]);
    Case::new(&["--verbose"]).refused(&expect!["state_dir is not set: allowed is a directory when verbose is set; set --state-dir, CGFLEET_EXAMPLE_STATE_DIR or state_dir in the configuration file"]);
    Case::new(&["--database-url", "mysql://u:geheim@db"]).refused(&expect![[r#"database_url = "mysql://u:***@db" (flag --database-url): allowed is a URL that begins with postgres://; correct it there, or leave database_url out"#]]);
}

/// A key that must be set.
#[derive(Debug, PartialEq, confique::Config)]
struct RequiredConfig {
    /// The server.
    server_address: SocketAddr,
    /// A number that its own rule refuses.
    #[config(default = 1, validate(*odd % 2 == 1, "must be odd"))]
    odd: u32,
}

impl Checked for RequiredConfig {}

#[test]
fn a_key_without_default_must_be_set() {
    let daemon = Daemon { default_file: "/nonexistent/example.toml", ..Case::new(&[]).daemon() };
    let error = |args: &[&str]| {
        let args = ["cgfleet-example"].iter().chain(args);
        load::<RequiredConfig>(&daemon, args, |_| None).unwrap_err().to_string()
    };
    expect!["server_address is not set and has no default; set --server-address, CGFLEET_EXAMPLE_SERVER_ADDRESS or server_address in the configuration file"].assert_eq(&error(&[]));
    expect![[r#"server_address = "x" (flag --server-address): allowed is an IP address with its port, such as 127.0.0.1:80 or [::1]:80; correct it there"#]].assert_eq(&error(&["--server-address", "x"]));
    expect!["odd = 2 (flag --odd): validation failed: must be odd; set it like --odd=1"]
        .assert_eq(&error(&["--server-address", "127.0.0.1:1", "--odd=2"]));
}
