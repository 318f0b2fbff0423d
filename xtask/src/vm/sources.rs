//! Where this machine has Debian from: apt's sources, in both of their formats (sources.list(5)).

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context as _, Result};

/// The only component that kernels are in.
const COMPONENT: &str = "main";

/// A source of binary packages.
#[derive(Debug, PartialEq)]
struct Source {
    uris: String,
    suites: String,
    components: String,
    signed_by: Option<String>,
}

/// A deb822 stanza for another suite, from where the machine has the suite of its own release.
pub(super) fn stanza_of(suite: &str) -> Result<String> {
    let os_release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let codename = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("/etc/os-release has no VERSION_CODENAME: not a Debian release?")?;
    let sources = of_machine()?;
    let own = sources.iter().find(|source| {
        source.suites.split_whitespace().any(|suite| suite == codename)
            && source.components.split_whitespace().any(|component| component == COMPONENT)
    });
    let own = own.with_context(|| format!("no source of /etc/apt has {codename} {COMPONENT}"))?;
    let signed_by = own.signed_by.iter().map(|keyring| format!("Signed-By: {keyring}\n"));
    let stanza = format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: {COMPONENT}\n", own.uris);
    Ok(stanza + &signed_by.collect::<String>())
}

fn of_machine() -> Result<Vec<Source>> {
    let mut files = vec![Path::new("/etc/apt/sources.list").to_path_buf()];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(parts.map(|entry| entry.path()));
    let mut sources = Vec::new();
    for file in files.iter().filter(|file| file.exists()) {
        let read = || fs::read_to_string(file).with_context(|| format!("read {}", file.display()));
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(read()?.lines().filter_map(one_line)),
            Some("sources") => sources.extend(read()?.split("\n\n").filter_map(deb822)),
            _ => {}
        }
    }
    Ok(sources)
}

/// `deb [signed-by=KEYRING] URI SUITE COMPONENT…`
fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = line.strip_prefix('[').and_then(|line| line.split_once(']')).unwrap_or(("", line));
    let mut fields = rest.split_whitespace();
    Some(Source {
        uris: fields.next()?.to_owned(),
        suites: fields.next()?.to_owned(),
        components: fields.collect::<Vec<_>>().join(" "),
        signed_by: options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned),
    })
}

/// `Field: value` lines. A key that is written out goes on over several lines and is taken along.
fn deb822(stanza: &str) -> Option<Source> {
    let mut fields: HashMap<&str, String> = HashMap::new();
    let mut last = "";
    for line in stanza.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with([' ', '\t']) {
            fields.entry(last).or_default().extend(["\n", line]);
        } else if let Some((field, value)) = line.split_once(':') {
            last = field;
            fields.insert(field, value.trim().to_owned());
        }
    }
    let has_binaries = fields.get("Types")?.split_whitespace().any(|kind| kind == "deb");
    let enabled = fields.get("Enabled").is_none_or(|value| value != "no");
    (has_binaries && enabled).then_some(())?;
    Some(Source {
        uris: fields.remove("URIs")?,
        suites: fields.remove("Suites")?,
        components: fields.remove("Components")?,
        signed_by: fields.remove("Signed-By"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uris: &str, suites: &str, components: &str, signed_by: Option<&str>) -> Source {
        let [uris, suites, components] = [uris, suites, components].map(str::to_owned);
        Source { uris, suites, components, signed_by: signed_by.map(str::to_owned) }
    }

    #[test]
    fn both_formats_say_the_same() {
        let check = |line, expect| assert_eq!(one_line(line), expect, "{line}");
        check(
            "deb http://mirror/debian stable main",
            Some(source("http://mirror/debian", "stable", "main", None)),
        );
        check(
            "deb [arch=amd64 signed-by=/k.gpg] http://mirror/d x main contrib # ours",
            Some(source("http://mirror/d", "x", "main contrib", Some("/k.gpg"))),
        );
        check("deb-src http://mirror/debian stable main", None);
        check("# deb http://mirror/debian stable main", None);

        let check = |stanza, expect| assert_eq!(deb822(stanza), expect, "{stanza}");
        check(
            "# ours\nTypes: deb deb-src\nURIs: http://mirror/d\nSuites: x x-updates\nComponents: main\nSigned-By: /k.gpg",
            Some(source("http://mirror/d", "x x-updates", "main", Some("/k.gpg"))),
        );
        check(
            "Types: deb\nURIs: http://mirror/d\nSuites: x\nComponents: main\nSigned-By:\n KEY\n .\n END\n",
            Some(source("http://mirror/d", "x", "main", Some("\n KEY\n .\n END"))),
        );
        check("Types: deb-src\nURIs: http://mirror/d\nSuites: x\nComponents: main", None);
        check("Enabled: no\nTypes: deb\nURIs: http://mirror/d\nSuites: x\nComponents: main", None);
    }
}
