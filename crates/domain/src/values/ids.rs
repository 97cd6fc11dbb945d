//! The ids, in one list. Each kind is a type of its own: the wrong kind does not compile.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Why a text is no id of the wanted kind.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAnId;

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id; ids made later sort later (UUID version 7, RFC 9562 section 5.7).
            pub fn mint() -> Self {
                Self(Uuid::now_v7())
            }

            /// The 128 bits.
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// From 128 bits.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            /// Only the canonical form (36 characters, lowercase hex) is an id.
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let has_upper = text.bytes().any(|byte| byte.is_ascii_uppercase());
                let is_canonical = text.len() == 36 && !has_upper;
                let uuid = Uuid::try_parse(text).map_err(|_| NotAnId)?;
                if is_canonical { Ok(Self(uuid)) } else { Err(NotAnId) }
            }
        }
    )+};
}

uuid_ids! {
    /// A user of an app.
    UserId,
    /// A session: one device that is, or was, signed in.
    SessionId,
    /// An API token or the operator's token.
    TokenId,
    /// One run of a task.
    RunId,
}

/// An app: 24 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId([u8; 12]);

impl AppId {
    /// A new random id (96 bits).
    pub fn mint() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 24];
        for (places, byte) in text.chunks_exact_mut(2).zip(self.0) {
            places.copy_from_slice(&digits(byte));
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for AppId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        unhex(text).map(Self).ok_or(NotAnId)
    }
}

impl Serialize for AppId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AppId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| serde::de::Error::custom("an app id is 24 hex digits"))
    }
}

/// The SHA-256 of a text in lowercase hex: another text has another one.
pub fn hash_of(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// Bytes as lowercase hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().copied().flat_map(digits).map(char::from).collect()
}

fn digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)])
}

/// Lowercase hex as exactly `N` bytes.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_of_an_id_is_read() {
        let id = UserId::mint();
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in [id.to_string().to_uppercase(), id.uuid().simple().to_string(), String::new()]
        {
            assert_eq!(wrong.parse::<UserId>(), Err(NotAnId), "{wrong}");
        }
    }

    #[test]
    fn app_ids_are_24_hex_digits() {
        let id = AppId::mint();
        assert_eq!(id.to_string().len(), 24);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("xyz".parse::<AppId>(), Err(NotAnId));
        assert_eq!("g".repeat(24).parse::<AppId>(), Err(NotAnId));
    }

    #[test]
    fn ids_made_later_sort_later() {
        let ids: Vec<String> = (0..100).map(|_| SessionId::mint().to_string()).collect();
        assert!(ids.is_sorted());
    }
}
