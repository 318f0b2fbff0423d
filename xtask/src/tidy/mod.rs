//! The fences between the crates, checked file by file.
//!
//! Which fences there are is data (rules.rs); this file reads the checkout and reports what breaks one.

mod rules;
mod source;

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::checkout::Checkout;
use rules::{Check, EXCEPTIONS, RULES, Rule};
use source::{NamedPath, Token};

/// Prints every broken rule as `file:line: rule: what, why`.
pub(crate) fn tidy(checkout: &Checkout) -> Result<()> {
    let mut files = Vec::new();
    collect(&checkout.root, "", &mut files)?;
    files.sort();
    let findings: Vec<_> = files.iter().flat_map(|(path, text)| check_file(path, text)).collect();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings in {} files", findings.len(), files.len());
    }
    println!("tidy: {} files keep {} rules", files.len(), RULES.len());
    Ok(())
}

/// Reads every text file below `dir`, apart from what git and builds leave there.
fn collect(root: &Path, dir: &str, files: &mut Vec<(String, String)>) -> Result<()> {
    let listed = root.join(dir);
    for entry in fs::read_dir(&listed).with_context(|| format!("list {}", listed.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
        let kind = entry.file_type()?;
        // Of a linked worktree .git is a file.
        if ["target", ".git", "node_modules", "Cargo.lock"].contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() {
            collect(root, &path, files)?;
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).with_context(|| format!("read {path}"))?;
            // What is not UTF-8 is no text: images, the landed protos.
            files.extend(String::from_utf8(bytes).ok().map(|text| (path, text)));
        }
    }
    Ok(())
}

/// The findings of one file, as lines for a person.
fn check_file(path: &str, text: &str) -> Vec<String> {
    let applies = |rule: &&Rule| {
        let excepted = EXCEPTIONS.iter().any(|(name, file, _)| *name == rule.name && *file == path);
        let within = |places: &[rules::Place]| places.iter().any(|place| place.holds(path));
        within(rule.files) && !within(rule.except) && !excepted
    };
    let rules: Vec<_> = RULES.iter().filter(applies).collect();
    let tokens = if Path::new(path).extension().is_some_and(|kind| kind == "rs") {
        source::tokens(text)
    } else {
        Vec::new()
    };
    let file = File { text, paths: source::paths(&tokens), tokens };
    let mut findings = Vec::new();
    for rule in rules {
        let found = file.check(rule.check);
        findings.extend(
            found
                .into_iter()
                .map(|(line, what)| format!("{path}:{line}: {}: {what}: {}", rule.name, rule.why)),
        );
    }
    findings
}

struct File<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    paths: Vec<NamedPath>,
}

impl File<'_> {
    /// Where the file breaks the check: (line, what was found).
    fn check(&self, check: Check) -> Vec<(usize, String)> {
        match check {
            Check::NoPath(forbidden) => {
                let hits = self.paths.iter().filter(|path| forbidden.iter().any(|fence| names(path, fence)));
                hits.map(|path| (path.line, path.segments.join("::"))).collect()
            }
            Check::NoTokens(forbidden) => forbidden.iter().flat_map(|fence| self.sequences(fence)).collect(),
            Check::NoString(forbidden) => {
                let strings = self.tokens.iter().filter(|token| token.kind == source::Kind::Text);
                let hits = strings.filter(|token| forbidden.iter().any(|fence| token.text.contains(fence)));
                hits.map(|token| (token.line, format!("{:?}", token.text))).collect()
            }
            Check::NoText(forbidden) => self.lines(forbidden, |line, fence| line.contains(fence)),
            Check::NoRootedPath(forbidden) => self.lines(forbidden, begins_a_path),
            Check::OpensWith(opening) if self.text.starts_with(opening) => Vec::new(),
            Check::OpensWith(opening) => vec![(1, format!("no {opening}"))],
            Check::SectionHas(section, line) if section_has(self.text, section, line) => Vec::new(),
            Check::SectionHas(section, line) => vec![(1, format!("no {line} in {section}"))],
            Check::LinesMax(max) => {
                let count = self.text.lines().count();
                (count > max).then(|| (max + 1, format!("{count} lines"))).into_iter().collect()
            }
        }
    }

    fn sequences(&self, fence: &str) -> Vec<(usize, String)> {
        let wanted: Vec<_> = fence.split(' ').collect();
        let same =
            |(token, wanted): (&Token, &&str)| token.kind != source::Kind::Text && token.text == **wanted;
        let windows = self.tokens.windows(wanted.len());
        let hits = windows.filter(|window| window.iter().zip(&wanted).all(same));
        hits.map(|window| (window[0].line, wanted.concat())).collect()
    }

    fn lines(&self, forbidden: &[&str], hit: impl Fn(&str, &str) -> bool) -> Vec<(usize, String)> {
        let numbered = self.text.lines().zip(1..);
        let hits =
            numbered.flat_map(|(line, number)| forbidden.iter().map(move |fence| (line, number, *fence)));
        hits.filter(|(line, _, fence)| hit(line, fence))
            .map(|(_, number, fence)| (number, fence.to_owned()))
            .collect()
    }
}

/// Whether the path is the fence, lies below it, or is a glob above it.
fn names(path: &NamedPath, fence: &str) -> bool {
    let mut segments = path.segments.iter();
    for wanted in fence.split("::") {
        match segments.next() {
            Some(segment) if segment == "*" => return true,
            Some(segment) if segment == wanted => {}
            _ => return false,
        }
    }
    true
}

/// Whether the text has `start` as the beginning of a path, not in its middle.
fn begins_a_path(text: &str, start: &str) -> bool {
    text.match_indices(start).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-./}*".contains(c))
    })
}

fn section_has(text: &str, section: &str, wanted: &str) -> bool {
    let after = text.lines().map(str::trim).skip_while(|line| *line != section).skip(1);
    let mut body = after.take_while(|line| !line.starts_with('['));
    body.any(|line| line == wanted)
}

#[cfg(test)]
mod tests;
