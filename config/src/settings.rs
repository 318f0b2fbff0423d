//! The settings in force: for each key the value of the strongest source so far, and which source that was.
//!
//! It must not know how the sources are read, only what each of them gave.

use std::fmt;
use std::path::PathBuf;

use confique::{Config, Layer};
use toml::Value;

use crate::error::{ConfigError, InvalidValue, one_line};
use crate::field::{Field, layer_of};
use crate::secret;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Env(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A value as a source gives it.
pub(crate) enum Given {
    /// Text without a type: from the environment or a flag.
    Text(String),
    /// A TOML value: from the file or the struct's default.
    Typed(Value),
}

/// A value that its key accepted.
pub(crate) struct Setting {
    pub value: Value,
    pub origin: Origin,
}

/// The accepted settings, one place per field; `None` is unset.
pub(crate) struct Chosen<'a> {
    pub fields: &'a [Field],
    settings: Vec<Option<Setting>>,
}

impl Chosen<'_> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Field, Option<&Setting>)> {
        self.fields.iter().zip(self.settings.iter().map(Option::as_ref))
    }

    /// The error for a value that its type accepted and the daemon's own rules did not.
    pub(crate) fn refuse(&self, invalid: &InvalidValue) -> ConfigError {
        let found = self.iter().find(|(field, _)| field.name == invalid.field);
        let Some((field, setting)) = found else {
            return ConfigError::Rule { key: invalid.field, allowed: invalid.allowed.clone() };
        };
        match setting {
            Some(Setting { value, origin }) => {
                refused(field, value, origin, format!("allowed is {}", invalid.allowed))
            }
            None => ConfigError::Unset {
                key: field.name,
                allowed: invalid.allowed.clone(),
                mend: how_to_set(field),
            },
        }
    }
}

/// The settings while sources are still being added, weakest first.
pub(crate) struct Settings<'a, C: Config> {
    layer: C::Layer,
    chosen: Chosen<'a>,
}

impl<'a, C: Config> Settings<'a, C> {
    /// The defaults alone.
    pub(crate) fn defaults(fields: &'a [Field]) -> Result<Self, ConfigError> {
        let settings = fields.iter().map(|_| None).collect();
        let mut this = Self { layer: C::Layer::empty(), chosen: Chosen { fields, settings } };
        for field in fields {
            if let Some(default) = &field.default {
                this.set(field, Given::Typed(default.clone()), Origin::Default)?;
            }
        }
        Ok(this)
    }

    /// Puts a value above all that were set before, if its key accepts it.
    pub(crate) fn set(&mut self, field: &Field, given: Given, origin: Origin) -> Result<(), ConfigError> {
        let (value, layer) = match given {
            Given::Typed(value) => match layer_of::<C>(field.name, value.clone()) {
                Ok(layer) => (value, layer),
                Err(error) => return Err(refused(field, &value, &origin, reason(field, &value, &error))),
            },
            Given::Text(text) => accept_text::<C>(field, text, &origin)?,
        };
        let weaker = std::mem::replace(&mut self.layer, C::Layer::empty());
        self.layer = layer.with_fallback(weaker);
        self.chosen.settings[field.index] = Some(Setting { value, origin });
        Ok(())
    }

    /// The configuration, when no source is left.
    pub(crate) fn finish(self) -> Result<(C, Chosen<'a>), ConfigError> {
        if let Some((field, _)) =
            self.chosen.iter().find(|(field, setting)| setting.is_none() && !field.optional)
        {
            return Err(ConfigError::Missing { key: field.name, mend: how_to_set(field) });
        }
        let config = C::from_layer(self.layer)?;
        Ok((config, self.chosen))
    }
}

/// Gives text a type: it is the string it looks like if the key takes strings (`123` may be a host's name), else
/// the TOML value it spells (`5`, `true`, `["a", "b"]`).
fn accept_text<C: Config>(
    field: &Field,
    text: String,
    origin: &Origin,
) -> Result<(Value, C::Layer), ConfigError> {
    let spelled = text.parse::<Value>().ok().filter(|value| !value.is_str());
    let string = Value::String(text);
    let as_string = match layer_of::<C>(field.name, string.clone()) {
        Ok(layer) => return Ok((string, layer)),
        Err(error) => reason(field, &string, &error),
    };
    let Some(spelled) = spelled else { return Err(refused(field, &string, origin, as_string)) };
    match layer_of::<C>(field.name, spelled.clone()) {
        Ok(layer) => Ok((spelled, layer)),
        // Of the two reasons the second is about the value meant: 70000 for a port, not "70000".
        Err(error) => Err(refused(field, &spelled, origin, reason(field, &spelled, &error))),
    }
}

fn refused(field: &Field, value: &Value, origin: &Origin, reason: String) -> ConfigError {
    ConfigError::Refused {
        key: field.name,
        value: shown(field, value),
        origin: origin.to_string(),
        reason,
        mend: how_to_mend(field, origin),
    }
}

/// A value for an error message: in one line, bounded, and without its password.
fn shown(field: &Field, value: &Value) -> String {
    const SHOWN_CHARS_MAX: usize = 120;
    let value = secret::redact(field.name, value).unwrap_or_else(|| value.clone());
    let text = match &value {
        Value::String(text) => format!("{text:?}"),
        other => one_line(&other.to_string()),
    };
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Why a type refused a value, in the operator's words.
fn reason(field: &Field, value: &Value, error: &toml::de::Error) -> String {
    // serde says "invalid type: integer `5`, expected a string"; the first half only repeats the value.
    let message = error.message();
    let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected);
    if let Some(allowed) = operators_words(expected.unwrap_or(message)) {
        return format!("allowed is {allowed}");
    }
    match (expected, secret::redact(field.name, value)) {
        (Some(expected), _) => format!("allowed is {}", one_line(expected)),
        (None, None) => one_line(message),
        // The type's own message may quote the secret.
        (None, Some(_)) => "not a value of this key".to_owned(),
    }
}

/// serde and the standard library name Rust's types; an operator should not need to know them.
fn operators_words(expected: &str) -> Option<String> {
    let range = |min: i64, max: u64| format!("a whole number from {min} to {max}");
    // TOML's integers are signed 64-bit numbers, so this is as far as a file can go.
    let toml_max = i64::MAX.unsigned_abs();
    Some(match expected {
        "u8" => range(0, u8::MAX.into()),
        "u16" => range(0, u16::MAX.into()),
        "u32" => range(0, u32::MAX.into()),
        "u64" | "usize" => range(0, toml_max),
        "i64" | "isize" => range(i64::MIN, toml_max),
        "a nonzero u16" => range(1, u16::MAX.into()),
        "a nonzero u32" => range(1, u32::MAX.into()),
        "a nonzero u64" | "a nonzero usize" => range(1, toml_max),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list such as [\"a\", \"b\"]".to_owned(),
        "path string" => "a path".to_owned(),
        "socket address" | "invalid socket address syntax" => {
            "an IP address with its port, such as 127.0.0.1:80 or [::1]:80".to_owned()
        }
        _ => return None,
    })
}

/// How to give the value where it was given, with the default as the example.
fn how_to_mend(field: &Field, origin: &Origin) -> String {
    let (Some(default), Some(bare)) = (&field.default, field.bare_default()) else {
        let way_out = if field.optional { format!(", or leave {} out", field.name) } else { String::new() };
        return format!("correct it there{way_out}");
    };
    let for_shell = if bare.contains([' ', '"', '\\']) { format!("'{bare}'") } else { bare };
    match origin {
        Origin::Default => how_to_set(field),
        Origin::File { .. } => format!("write it like {} = {default}", field.name),
        Origin::Env(name) => format!("set it like {name}={for_shell}"),
        Origin::Flag(flag) => format!("set it like {flag}={for_shell}"),
    }
}

fn how_to_set(field: &Field) -> String {
    format!("set {}, {} or {} in the configuration file", field.flag, field.env, field.name)
}
