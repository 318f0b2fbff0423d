//! Just enough of Rust's grammar for the fences: tokens with their lines, and the paths that a file
//! names, `use` trees expanded.
//!
//! Comments vanish here, so a comment may speak of what the code may not do.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    Text,
    Sign,
}

/// A token of Rust source. The text of a string is its content as written, without quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) line: usize,
}

/// A path such as `tonic::Status` and the line that names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NamedPath {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
}

/// Splits Rust source into tokens.
pub(super) fn tokens(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: source, line: 1, tokens: Vec::new() };
    while !lexer.rest.is_empty() {
        lexer.step();
    }
    lexer.tokens
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn step(&mut self) {
        let rest = self.rest;
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if rest.starts_with("//") {
            self.skip(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.skip(block_comment_len(rest));
        } else if let Some((prefix, hashes)) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = &rest[prefix..];
            let len = body.find(&end).unwrap_or(body.len());
            self.push(Kind::Text, &body[..len]);
            self.skip((prefix + len + end.len()).min(rest.len()));
        } else if let Some(body) = rest.strip_prefix('"') {
            let len = quoted_len(body, '"');
            self.push(Kind::Text, &body[..len]);
            self.skip((len + 2).min(rest.len()));
        } else if rest.starts_with('\'') {
            self.skip(char_or_lifetime_len(rest));
        } else if word > 0 {
            self.push(Kind::Word, &rest[..word]);
            self.skip(word);
        } else {
            let first = rest.chars().next().map_or(0, char::len_utf8);
            let len = if rest.starts_with("::") { 2 } else { first };
            if !rest.starts_with(char::is_whitespace) {
                self.push(Kind::Sign, &rest[..len]);
            }
            self.skip(len);
        }
    }

    fn push(&mut self, kind: Kind, text: &str) {
        self.tokens.push(Token { kind, text: text.to_owned(), line: self.line });
    }

    fn skip(&mut self, len: usize) {
        self.line += self.rest[..len].matches('\n').count();
        self.rest = &self.rest[len..];
    }
}

/// Block comments nest.
fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// For `r"`, `br#"` and the like: the length up to and with the quote, and the number of hashes.
fn raw_string(rest: &str) -> Option<(usize, usize)> {
    let start = ["r", "br", "cr"]
        .into_iter()
        .find(|start| rest.strip_prefix(start).is_some_and(|after| after.starts_with(['"', '#'])))?;
    let after = &rest[start.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some((start.len() + hashes + 1, hashes))
}

/// The length of what stands before the closing quote.
fn quoted_len(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at,
            _ => {}
        }
    }
    body.len()
}

fn char_or_lifetime_len(rest: &str) -> usize {
    let body = &rest[1..];
    let mut chars = body.chars();
    let is_char = body.starts_with('\\') || (chars.next().is_some() && chars.next() == Some('\''));
    if is_char { (quoted_len(body, '\'') + 2).min(rest.len()) } else { 1 }
}

/// The paths of two and more segments that the code names, and everything that it uses.
pub(super) fn paths(tokens: &[Token]) -> Vec<NamedPath> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].kind == Kind::Word && tokens[at].text == "use" {
            at = use_tree(tokens, at + 1, &[], &mut found);
        } else if tokens[at].kind == Kind::Word {
            let (segments, next) = plain_path(tokens, at);
            if segments.len() > 1 {
                found.push(NamedPath { segments, line: tokens[at].line });
            }
            at = next;
        } else {
            at += 1;
        }
    }
    found
}

fn is(tokens: &[Token], at: usize, sign: &str) -> bool {
    tokens.get(at).is_some_and(|token| token.kind == Kind::Sign && token.text == sign)
}

fn plain_path(tokens: &[Token], start: usize) -> (Vec<String>, usize) {
    let mut segments = vec![tokens[start].text.clone()];
    let mut at = start + 1;
    while is(tokens, at, "::") && tokens.get(at + 1).is_some_and(|next| next.kind == Kind::Word) {
        segments.push(tokens[at + 1].text.clone());
        at += 2;
    }
    (segments, at)
}

/// Reads one branch of a `use` tree and returns where it ends: `a::b`, `a::{b, c::d}`, `a::*`.
fn use_tree(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<NamedPath>) -> usize {
    let line = tokens.get(at).map_or(0, |token| token.line);
    let mut segments = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        match (token.kind, token.text.as_str()) {
            (Kind::Word, "as") => {
                at += 2;
                break;
            }
            (Kind::Word, "self") if !segments.is_empty() => at += 1,
            (Kind::Word, _) | (Kind::Sign, "*") => {
                segments.push(token.text.clone());
                at += 1;
            }
            (Kind::Sign, "::") => at += 1,
            (Kind::Sign, "{") => {
                at += 1;
                while at < tokens.len() && !is(tokens, at, "}") {
                    at = if is(tokens, at, ",") {
                        at + 1
                    } else {
                        use_tree(tokens, at, &segments, found).max(at + 1)
                    };
                }
                return at + 1;
            }
            _ => break,
        }
    }
    found.push(NamedPath { segments, line });
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(source: &str) -> Vec<String> {
        paths(&tokens(source))
            .iter()
            .map(|path| format!("{}@{}", path.segments.join("::"), path.line))
            .collect()
    }

    #[test]
    fn use_trees_are_expanded_with_the_line_of_each_leaf() {
        let check = |source: &str, expect: &[&str]| assert_eq!(named(source), expect, "{source}");
        check("use tonic::Status;", &["tonic::Status@1"]);
        check("use tonic::{\n    Request,\n    Status as S,\n};", &["tonic::Request@2", "tonic::Status@3"]);
        check("pub use a::{self, b::{c, d::*}};", &["a@1", "a::b::c@1", "a::b::d::*@1"]);
        check("use ::aya;\nfn f() -> tonic::Status {}", &["aya@1", "tonic::Status@2"]);
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let check = |source: &str, expect: &[&str]| {
            let words = tokens(source).into_iter().filter(|token| token.kind == Kind::Word);
            assert_eq!(words.map(|token| token.text).collect::<Vec<_>>(), expect, "{source}");
        };
        check("// unsafe\nfn", &["fn"]);
        check("/* a /* unsafe */ b */ fn", &["fn"]);
        check(r#"let x = "unsafe \" unsafe"; y"#, &["let", "x", "y"]);
        check("r#\"unsafe \" unsafe\"# y", &["y"]);
        check("'\"' x '\\'' y 'a z", &["x", "y", "a", "z"]);
        check("br\"unsafe\" r y", &["r", "y"]);
    }

    #[test]
    fn the_end_of_the_file_ends_everything() {
        for source in ["\"open", "r#\"open", "/* open", "use a::{b", "'", "use a::{", "'\\", "use", "r#\"x\""]
        {
            paths(&tokens(source));
        }
    }
}
