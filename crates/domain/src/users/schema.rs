//! The attributes that the users of an app have, and whether a value fits them.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::values::error::{Error, Result};

/// Attributes of a user: few, and each short; they are no document store.
const FIELDS_MAX: usize = 100;
const NAME_CHARS_MAX: usize = 64;
const TEXT_CHARS_MAX: usize = 4_096;

/// The type of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// Any text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// `YYYY-MM-DD`.
    Date,
    /// `YYYY-MM-DDTHH:MM:SSZ`.
    Datetime,
    /// One of these texts.
    Choice(Vec<String>),
}

/// The attributes of an app's users by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserSchema(pub BTreeMap<String, FieldType>);

impl Default for UserSchema {
    fn default() -> Self {
        let text = |name: &str| (name.to_owned(), FieldType::Text);
        Self(BTreeMap::from([text("name"), text("email")]))
    }
}

/// A value as the filter index holds it: numbers as numbers, all else as text.
pub(crate) enum Indexed {
    Text(String),
    Number(f64),
}

impl UserSchema {
    pub(crate) fn check(&self) -> Result<()> {
        let is_name = |name: &str| {
            let mut chars = name.chars();
            chars.next().is_some_and(|c| c.is_ascii_lowercase())
                && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                && name.len() <= NAME_CHARS_MAX
        };
        let taken = ["id", "type", "updated_at", "display"];
        let wrong = self.0.keys().find(|name| !is_name(name) || taken.contains(&name.as_str()));
        if let Some(name) = wrong {
            let why = format!("{name:?} is no name: a-z, 0-9 and _, at most {NAME_CHARS_MAX}");
            return Err(Error::invalid("user_schema", why));
        }
        if self.0.len() > FIELDS_MAX {
            return Err(Error::invalid("user_schema", format!("at most {FIELDS_MAX} attributes")));
        }
        Ok(())
    }

    /// The type of an attribute, or that there is no such attribute.
    pub fn field(&self, name: &str) -> Result<&FieldType> {
        self.0.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            let why = format!("is no attribute of a user; known: {}", known.join(", "));
            Error::invalid(name, why)
        })
    }

    /// Checks each given attribute; a null clears it.
    pub(crate) fn check_values(&self, given: &Map<String, Value>) -> Result<()> {
        given.iter().try_for_each(|(name, value)| {
            let field = self.field(name)?;
            if value.is_null() { Ok(()) } else { field.index(name, value).map(|_| ()) }
        })
    }
}

impl FieldType {
    /// The value as it is filtered and sorted by; an error that says what is wanted if it does not
    /// fit the type.
    pub(crate) fn index(&self, name: &str, value: &Value) -> Result<Indexed> {
        let wrong = |wanted: &str| Error::invalid(name, format!("must be {wanted}"));
        match self {
            Self::Integer => value
                .as_i64()
                .filter(|number| number.unsigned_abs() <= 1 << 53)
                .map(|number| Indexed::Number(number as f64))
                .ok_or_else(|| wrong("a whole number up to 2^53")),
            Self::Number => value.as_f64().map(Indexed::Number).ok_or_else(|| wrong("a number")),
            Self::Boolean => value
                .as_bool()
                .map(|is| Indexed::Text(is.to_string()))
                .ok_or_else(|| wrong("true or false")),
            Self::Text | Self::Date | Self::Datetime | Self::Choice(_) => {
                let text = value.as_str().ok_or_else(|| wrong("a text"))?;
                self.check_text(text).map_err(|wanted| wrong(&wanted))?;
                Ok(Indexed::Text(text.to_owned()))
            }
        }
    }

    /// The JSON value that a text of a query or a form stands for.
    pub fn value_of_text(&self, text: &str) -> Value {
        match self {
            Self::Integer | Self::Number | Self::Boolean => {
                serde_json::from_str(text).unwrap_or_else(|_| text.into())
            }
            _ => text.into(),
        }
    }

    fn check_text(&self, text: &str) -> Result<(), String> {
        let fits = match self {
            Self::Date => text.len() == 10 && text.parse::<NaiveDate>().is_ok(),
            Self::Datetime => {
                text.len() == 20
                    && text.ends_with('Z')
                    && DateTime::parse_from_rfc3339(text).is_ok()
            }
            Self::Choice(choices) => choices.iter().any(|choice| choice == text),
            _ => text.chars().count() <= TEXT_CHARS_MAX && !text.contains('\0'),
        };
        if fits { Ok(()) } else { Err(self.wanted()) }
    }

    fn wanted(&self) -> String {
        match self {
            Self::Date => "a date like 2026-05-03".into(),
            Self::Datetime => "a moment like 2026-05-03T08:12:00Z".into(),
            Self::Choice(choices) => format!("one of {}", choices.join(", ")),
            _ => format!("a text of at most {TEXT_CHARS_MAX} characters"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_must_fit_the_type_of_their_attribute() {
        let choice = FieldType::Choice(vec!["red".into(), "blue".into()]);
        let table = [
            (FieldType::Text, json!("x"), json!(1)),
            (FieldType::Integer, json!(7), json!(7.5)),
            (FieldType::Number, json!(7.5), json!("7.5")),
            (FieldType::Boolean, json!(true), json!("true")),
            (FieldType::Date, json!("2026-05-03"), json!("2026-5-3")),
            (FieldType::Datetime, json!("2026-05-03T08:12:00Z"), json!("2026-05-03 08:12")),
            (choice, json!("red"), json!("green")),
        ];
        for (field, good, bad) in table {
            assert!(field.index("a", &good).is_ok(), "{field:?} {good}");
            let Err(Error::Invalid { field: name, .. }) = field.index("a", &bad) else {
                panic!("{field:?} must refuse {bad}")
            };
            assert_eq!(name, "a");
        }
    }

    #[test]
    fn a_schema_has_plain_names() {
        for name in ["", "Name", "1st", "a b", "id", "_hidden"] {
            let schema = UserSchema(BTreeMap::from([(name.to_owned(), FieldType::Text)]));
            assert!(schema.check().is_err(), "{name:?}");
        }
        assert!(UserSchema::default().check().is_ok());
    }
}
