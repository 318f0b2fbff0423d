//! What a view is to show, as the agent's configuration has it.

use cgfleet_model::unescape_path;

use super::columns::Columns;
use crate::walker::{Order, Target};

/// How one view is written.
pub(crate) const FORM: &str = "NAME=TARGET:ORDER:FIELDS, such as web=/system.slice:pre:cpu,memory; TARGET is /path, \
                               HIERARCHY:/path or an id, ORDER is self, pre, post, ancestors or children, and no \
                               FIELDS are all; a space in a path is \\x20";

/// The longest name.
const NAME_BYTES_MAX: usize = 64;

/// What names may be, for people.
pub(crate) const NAMES: &str = "1 to 64 of A-Z, a-z, 0-9, '_' and '-'";

/// A view that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ViewSpec {
    pub(crate) name: ViewName,
    pub(crate) target: Target,
    pub(crate) order: Order,
    pub(crate) columns: Columns,
    /// Whether it is made if its text does not fit now.
    pub(crate) truncate: bool,
}

/// A name that a file in a directory of ours can have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ViewName(String);

impl ViewName {
    /// `None` if it is none: see [`NAMES`].
    pub(crate) fn parse(name: &str) -> Option<Self> {
        // bpffs keeps names with dots for itself (kernel/bpf/inode.c, bpf_lookup).
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_allowed);
        is_name.then(|| Self(name.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl ViewSpec {
    /// The views of a configuration, separated by spaces; `None` if one is not as in [`FORM`].
    pub(crate) fn parse_all(text: &str) -> Option<Vec<Self>> {
        text.split_whitespace().map(Self::parse).collect()
    }

    /// Nobody reads the refusal of a view that does not fit, so its last line is to tell.
    fn parse(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once('=')?;
        let mut parts = rest.rsplitn(3, ':');
        let (fields, order, target) = (parts.next()?, parts.next()?, parts.next()?);
        let fields = fields.split(',').filter(|field| !field.is_empty());
        Some(Self {
            name: ViewName::parse(name)?,
            target: target_of(target)?,
            order: match order {
                "self" => Order::SelfOnly,
                "pre" => Order::DescendantsPre,
                "post" => Order::DescendantsPost,
                "ancestors" => Order::AncestorsUp,
                "children" => Order::Children,
                _ => return None,
            },
            columns: Columns::of_fields(fields).ok()?,
            truncate: true,
        })
    }
}

fn target_of(text: &str) -> Option<Target> {
    if let Ok(id) = text.parse() {
        return Some(Target::Id(id));
    }
    let (hierarchy, path) = text.split_at(text.find('/')?);
    let hierarchy = if hierarchy.is_empty() { hierarchy } else { hierarchy.strip_suffix(':')? };
    Some(Target::Path { hierarchy: hierarchy.to_owned(), path: unescape_path(path).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_written_in_one_line() {
        let check = |text: &str, expect: Option<&[(&str, &str, Order)]>| {
            let views = ViewSpec::parse_all(text);
            let found = views.as_ref().map(|views| {
                let parts = views.iter().map(|view| (view.name.as_str(), view.target.to_text(), view.order));
                parts.collect::<Vec<_>>()
            });
            let expect = expect.map(|expect| expect.iter().map(|it| (it.0, it.1.to_owned(), it.2)).collect());
            assert_eq!(found, expect, "{text}");
        };
        check("", Some(&[]));
        check("a=/:pre:", Some(&[("a", "/", Order::DescendantsPre)]));
        check(
            "a=/x:y:self:cpu,pids  b-1=cpu:/z:post:memory",
            Some(&[("a", "/x:y", Order::SelfOnly), ("b-1", "cpu:/z", Order::DescendantsPost)]),
        );
        check("a=17:ancestors:", Some(&[("a", "17", Order::AncestorsUp)]));
        for wrong in
            ["a", "a=/:pre", "=/:pre:", "../a=/:pre:", "a=/:up:", "a=/:pre:io", "a=x:pre:", "a=x/y:pre:"]
        {
            check(wrong, None);
        }
    }

    #[test]
    fn a_name_is_a_file_in_the_directory() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for wrong in ["", ".", "..", "a.b", "a/b", "a b", "ä", "a\n", &long] {
            assert_eq!(ViewName::parse(wrong), None, "{wrong:?}");
        }
        for right in ["a", "A-1_bc", &long[1..]] {
            assert!(ViewName::parse(right).is_some(), "{right:?}");
        }
    }
}
