//! Secrets: how they are made, told apart and hashed. A secret is shown once and never stored; what
//! is stored is its SHA-256, which suffices for 166 random bits (OWASP ASVS 5.0, 6.5.2).

use std::fmt;
use std::str::FromStr;

use rand::RngExt as _;
use rand::distr::Alphanumeric;
use sha2::{Digest as _, Sha256};

use super::ids::{hex, unhex};

/// 28 digits in base 62 are 166 bits: more than the 160 that we promise.
const RANDOM_DIGITS: usize = 28;
/// A CRC-32 in base 62. It tells a mistyped or cut token from an unknown one, and lets secret
/// scanners find leaked tokens without a false alarm.
const CHECK_DIGITS: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What a secret is for. Its prefix says so to people and to secret scanners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// An API token of an app.
    Api,
    /// The operator's token.
    Operator,
    /// The token of one task run.
    Run,
    /// A device's session token.
    Session,
    /// A one-use authentication token for an enrolment.
    Enrolment,
}

impl SecretKind {
    const ALL: [Self; 5] = [Self::Api, Self::Operator, Self::Run, Self::Session, Self::Enrolment];

    /// What the text of the secret starts with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Api => "rea_",
            Self::Operator => "reo_",
            Self::Run => "rer_",
            Self::Session => "res_",
            Self::Enrolment => "ree_",
        }
    }
}

/// A secret in clear. It has no `Display`, and its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A new secret from the operating system's seeded generator.
    pub fn mint(kind: SecretKind) -> Self {
        let digits = rand::rng().sample_iter(Alphanumeric).take(RANDOM_DIGITS).map(char::from);
        let mut text: String = kind.prefix().chars().chain(digits).collect();
        let check = check_digits(&text);
        text.extend(check.map(char::from));
        Self(text)
    }

    /// The secret itself, to be shown once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Which kind of secret a text is, when it is one: right prefix, length and check digits.
pub fn kind_of_secret(text: &str) -> Option<SecretKind> {
    let kind = SecretKind::ALL.into_iter().find(|kind| text.starts_with(kind.prefix()))?;
    let is_whole = text.len() == kind.prefix().len() + RANDOM_DIGITS + CHECK_DIGITS;
    if !is_whole || !text.is_ascii() {
        return None;
    }
    let (signed, check) = text.split_at(text.len() - CHECK_DIGITS);
    (check.as_bytes() == check_digits(signed)).then_some(kind)
}

fn check_digits(text: &str) -> [u8; CHECK_DIGITS] {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; CHECK_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest as usize % BASE62.len()];
        rest /= 62;
    }
    digits
}

/// The SHA-256 of a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Hashes a text.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// The 32 bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From 32 stored bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// 64 lowercase hex digits.
impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SecretHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        unhex(text).map(Self).ok_or("64 hex digits are wanted")
    }
}

impl serde::Serialize for SecretHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SecretHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_its_prefix_and_its_check_digits() {
        for kind in SecretKind::ALL {
            let secret = Secret::mint(kind);
            assert_eq!(kind_of_secret(secret.reveal()), Some(kind));
            let cut = &secret.reveal()[..secret.reveal().len() - 1];
            assert_eq!(kind_of_secret(cut), None);
            let mut mistyped = secret.reveal().to_owned();
            let last = if mistyped.pop() == Some('a') { 'b' } else { 'a' };
            mistyped.push(last);
            assert_eq!(kind_of_secret(&mistyped), None);
        }
        assert_eq!(kind_of_secret("rea_é"), None);
        assert_eq!(kind_of_secret(""), None);
    }

    #[test]
    fn a_secret_hides_itself_and_is_never_the_same_twice() {
        let (one, two) = (Secret::mint(SecretKind::Api), Secret::mint(SecretKind::Api));
        assert_ne!(one.hash(), two.hash());
        assert_eq!(format!("{one:?}"), "Secret(…)");
    }

    #[test]
    fn every_digit_occurs_about_equally_often() {
        let mut counts = std::collections::HashMap::<char, u32>::new();
        for _ in 0..2_000 {
            let secret = Secret::mint(SecretKind::Session);
            for digit in secret.reveal()[4..4 + RANDOM_DIGITS].chars() {
                *counts.entry(digit).or_default() += 1;
            }
        }
        let expected = 2_000.0 * 28.0 / 62.0;
        assert_eq!(counts.len(), 62);
        let chi_square: f64 =
            counts.values().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        // 61 degrees of freedom: above 150 once in more than 10^8 honest samples.
        assert!(chi_square < 150.0, "chi-square {chi_square}");
    }
}
