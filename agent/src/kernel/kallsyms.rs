//! Addresses of kernel symbols, as /proc/kallsyms shows them to who may see them (kernel/kallsyms.c).

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
};

/// Symbols that were looked for.
#[derive(Debug, Default)]
pub(super) struct Symbols(Vec<(&'static str, u64)>);

impl Symbols {
    /// Looks for these. None is found without CAP_SYSLOG, and no data where the kernel was built without
    /// CONFIG_KALLSYMS_ALL.
    pub(super) fn read(names: &[&'static str]) -> io::Result<Self> {
        Self::parse(BufReader::new(File::open("/proc/kallsyms")?), names)
    }

    /// A line at a time: all of them come to many megabytes.
    fn parse(mut text: impl BufRead, names: &[&'static str]) -> io::Result<Self> {
        let (mut found, mut line) = (Vec::new(), String::new());
        while text.read_line(&mut line)? > 0 {
            // There are some hundred thousand lines, of which hardly one is looked at closer.
            let is_candidate = names.iter().any(|name| line.trim_ascii_end().ends_with(name));
            found.extend(is_candidate.then(|| Self::of_line(&line, names)).flatten());
            line.clear();
        }
        Ok(Self(found))
    }

    fn of_line(line: &str, names: &[&'static str]) -> Option<(&'static str, u64)> {
        let mut fields = line.split_ascii_whitespace();
        let (address, _, name) = (fields.next()?, fields.next()?, fields.next()?);
        let name = *names.iter().find(|wanted| **wanted == name)?;
        let address = u64::from_str_radix(address, 16).ok().filter(|address| *address != 0)?;
        Some((name, address))
    }

    /// The address of a symbol that is there once.
    pub(super) fn address(&self, name: &str) -> Option<u64> {
        let mut found = self.0.iter().filter(|(known, _)| *known == name);
        let (_, address) = found.next()?;
        found.next().is_none().then_some(*address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_has_one_address_or_none() {
        let text = "ffffffff81000000 T _text\nffffffff82000000 d table\n\
                    ffffffff83000000 d twice\nffffffff83000008 d twice\n0000000000000000 d hidden\n\
                    ffffffff84000000 d another_table\nffffffffc0000000 d table\t[module]\n";
        let symbols = Symbols::parse(text.as_bytes(), &["table", "twice", "hidden", "missing"]).unwrap();
        let check = |name, expect| assert_eq!(symbols.address(name), expect, "{name}");
        check("table", Some(0xffff_ffff_8200_0000));
        check("twice", None);
        check("hidden", None);
        check("missing", None);
        check("_text", None);
    }
}
