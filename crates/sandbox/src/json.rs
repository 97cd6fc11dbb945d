//! JSON that is handed on as it was written. Nothing is built of it: many short values take a
//! hundred times as much memory as their text. That one could be built of it has been looked at.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// See the module.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// Takes a text, if all of it is JSON.
    pub(crate) fn of(text: String) -> serde_json::Result<Self> {
        serde_json::from_str::<Readable>(&text)?;
        RawValue::from_string(text).map(Self)
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// The text itself.
    pub fn into_text(self) -> String {
        Box::<str>::from(self.0).into()
    }

    /// What it says, if that is of this type.
    pub fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.text())
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        serde_json::from_str::<Readable>(raw.get()).map_err(D::Error::custom)?;
        Ok(Self(raw))
    }
}

/// Kept from one that was looked at before; whoever reads it looks again.
impl From<Box<RawValue>> for Json {
    fn from(kept: Box<RawValue>) -> Self {
        Self(kept)
    }
}

impl From<Json> for Box<RawValue> {
    fn from(json: Json) -> Self {
        json.0
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self(serde_json::value::to_raw_value(&value).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

impl PartialEq for Json {
    /// Whether both say the same.
    fn eq(&self, other: &Self) -> bool {
        self.read::<Value>().ok() == other.read::<Value>().ok()
    }
}

/// Any value, of which nothing is kept: it is not nested too deeply, and its texts and numbers are
/// such. What merely skips a value looks at neither.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self, A::Error> {
        while all.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Self, A::Error> {
        while all.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_handed_on_as_it_was_written_if_it_can_be_read() {
        let text = r#"{"b": [1, 2.5, -3, null, true], "a": "\u00e9\ud83d\ude00"}"#;
        let json = Json::of(text.to_owned()).expect("JSON");
        assert_eq!(json.text(), text);
        assert_eq!(json, Json::from(json.read::<Value>().expect("it reads")));
        assert_ne!(json, Json::from(Value::Null));
        let deep = "[".repeat(200) + &"]".repeat(200);
        for wrong in ["", "{", "[1] 2", "'x'", r#""\ud800""#, "1e999", "NaN", &deep] {
            assert!(Json::of(wrong.to_owned()).is_err(), "{wrong}");
            assert!(serde_json::from_str::<Json>(wrong).is_err(), "{wrong}");
        }
    }
}
