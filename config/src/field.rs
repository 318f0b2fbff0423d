//! One configuration key as every source sees it, read from confique's description of the struct.
//!
//! It must not know of values that were given: those are settings.

use confique::meta::{self, FieldKind, LeafKind};
use confique::{Config, Layer};
use serde::Deserialize;
use toml::{Table, Value};

use crate::Daemon;

/// A key with its name in each source.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    /// Its place in the struct, which orders `--help`, `--print-config` and the reference.
    pub index: usize,
    /// The key in the TOML file, which is the name of the struct's field.
    pub name: &'static str,
    /// The doc comment, line by line.
    pub doc: Vec<&'static str>,
    /// The flag with its dashes.
    pub flag: String,
    /// The environment variable.
    pub env: String,
    /// The default, if the key has one.
    pub default: Option<Value>,
    /// Whether the key may stay unset.
    pub optional: bool,
    /// Whether the flag alone means true.
    pub takes_bool: bool,
}

/// The keys of `C`, in the order of the struct.
pub(crate) fn fields<C: Config>(daemon: &Daemon) -> Vec<Field> {
    const { assert!(is_flat(&C::META), "a daemon's configuration is flat: it must not have nested fields") };
    C::META.fields.iter().enumerate().map(|(index, field)| Field::new::<C>(daemon, index, field)).collect()
}

/// Deserializes one key alone. What is refused here is refused for this key's value and nothing else.
pub(crate) fn layer_of<C: Config>(key: &str, value: Value) -> Result<C::Layer, toml::de::Error> {
    C::Layer::deserialize(Value::Table(Table::from_iter([(key.to_owned(), value)])))
}

impl Field {
    fn new<C: Config>(daemon: &Daemon, index: usize, field: &meta::Field) -> Self {
        let (env, default, optional) = match field.kind {
            FieldKind::Leaf { env, kind: LeafKind::Required { default } } => (env, default, false),
            FieldKind::Leaf { env, kind: LeafKind::Optional } => (env, None, true),
            FieldKind::Nested { .. } => (None, None, false), // `fields` does not compile for such a struct
        };
        Self {
            index,
            name: field.name,
            doc: field.doc.iter().map(|line| line.trim()).collect(),
            flag: format!("--{}", field.name.replace('_', "-")),
            env: env.map_or_else(|| daemon.env_prefix.to_owned() + &field.name.to_uppercase(), str::to_owned),
            default: default
                .map(|expr| Value::try_from(expr).expect("a default written in the struct is a TOML value")),
            optional,
            takes_bool: layer_of::<C>(field.name, Value::Boolean(true)).is_ok_and(|layer| !layer.is_empty()),
        }
    }

    /// The default as one writes it in a flag or variable, where a string needs no quotes.
    pub(crate) fn bare_default(&self) -> Option<String> {
        self.default.as_ref().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }
}

const fn is_flat(meta: &meta::Meta) -> bool {
    let mut index = 0;
    while index < meta.fields.len() {
        if matches!(meta.fields[index].kind, FieldKind::Nested { .. }) {
            return false;
        }
        index += 1;
    }
    true
}
