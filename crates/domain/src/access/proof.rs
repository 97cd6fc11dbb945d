//! How a sign-in was proved: by which methods, and how surely.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Authentication methods by their registered names (RFC 8176, section 2), one bit each.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Methods(u32);

const NAMES: [&str; 21] = [
    "face", "fpt", "geo", "hwk", "iris", "kba", "mca", "mfa", "otp", "pin", "pop", "pwd", "rba",
    "retina", "sc", "sms", "swk", "tel", "user", "vbm", "wia",
];

impl Methods {
    /// None that is known.
    pub const NONE: Self = Self(0);

    /// By their names, or which of them is none.
    pub fn of(names: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, String> {
        names.into_iter().try_fold(Self::NONE, |methods, name| {
            let name = name.as_ref();
            let known = NAMES.iter().position(|known| *known == name);
            let why = || format!("{name:?} is no method of RFC 8176: {}", NAMES.join(", "));
            Ok(Self(methods.0 | 1 << known.ok_or_else(why)?))
        })
    }

    /// Whether all of these were used.
    pub const fn contains(self, all: Self) -> bool {
        self.0 & all.0 == all.0
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// Whether one of these was used.
    pub const fn meets(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their names in the order of the registry.
    pub fn names(self) -> Vec<&'static str> {
        let used = NAMES.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0);
        used.map(|(_, name)| *name).collect()
    }
}

impl TryFrom<Vec<String>> for Methods {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Self, String> {
        Self::of(names)
    }
}

impl From<Methods> for Vec<String> {
    fn from(methods: Methods) -> Self {
        methods.names().into_iter().map(str::to_owned).collect()
    }
}

/// The assurance level of a sign-in (NIST SP 800-63B-4, section 2), as the app's backend tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Assurance {
    /// One factor.
    Aal1,
    /// Two factors.
    Aal2,
    /// Two factors, one of them a key that cannot be copied, and resistant to phishing.
    Aal3,
}

impl Assurance {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Aal1, "aal1"), (Self::Aal2, "aal2"), (Self::Aal3, "aal3")];

    /// The level's name.
    pub fn name(self) -> &'static str {
        let found = Self::ALL.into_iter().find(|(level, _)| *level == self);
        found.expect("ALL has every level: a test proves it").1
    }
}

impl FromStr for Assurance {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|(_, name)| *name == text).map(|level| level.0).ok_or(())
    }
}

/// What of a session a policy can ask: fixed when it is authenticated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Traits {
    /// The platform that the device told, in lower case.
    pub platform: Option<String>,
    /// By which methods its user proved who they are.
    pub methods: Methods,
    /// How surely.
    pub assurance: Option<Assurance>,
}

/// A platform is a short word; what a device tells beyond that is no word of ours.
const PLATFORM_CHARS_MAX: usize = 32;

/// The platform as it is compared: lower case, at most 32 characters, other than letters, digits,
/// `.`, `_` and `-` told as `_`.
pub fn platform(told: &str) -> Option<String> {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '.' | '_' | '-') => c,
        _ => '_',
    };
    let text: String = told.trim().chars().take(PLATFORM_CHARS_MAX).map(plain).collect();
    (!text.is_empty() && text != "-").then_some(text)
}

/// `platform/methods/assurance`, as in `ios/otp,pwd/aal2`; what is not known is `-`.
impl fmt::Display for Traits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods =
            if self.methods.is_empty() { "-".into() } else { self.methods.names().join(",") };
        let platform = self.platform.as_deref().unwrap_or("-");
        write!(f, "{platform}/{methods}/{}", self.assurance.map_or("-", Assurance::name))
    }
}

impl From<Traits> for String {
    fn from(traits: Traits) -> Self {
        traits.to_string()
    }
}

impl TryFrom<String> for Traits {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map_err(|()| "must be platform/methods/assurance")
    }
}

impl FromStr for Traits {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('/').map(|part| Some(part).filter(|part| *part != "-"));
        let mut next = || parts.next().ok_or(());
        let platform = next()?.and_then(platform);
        let methods = match next()? {
            Some(names) => Methods::of(names.split(',')).map_err(|_| ())?,
            None => Methods::NONE,
        };
        let assurance = next()?.map(str::parse).transpose()?;
        Ok(Self { platform, methods, assurance })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traits_are_written_in_a_form_that_leads_back_to_them() {
        let all = Methods::of(NAMES);
        for traits in [
            Traits::default(),
            Traits {
                platform: platform(" iOS 18 "),
                methods: all.expect("all are known"),
                assurance: Some(Assurance::Aal2),
            },
            Traits { assurance: Some(Assurance::Aal3), ..Traits::default() },
        ] {
            assert_eq!(traits.to_string().parse(), Ok(traits));
        }
        assert_eq!(Traits::default().to_string(), "-/-/-");
        for wrong in ["", "ios", "ios/pwd", "ios/magic/-", "ios/pwd/aal4"] {
            assert_eq!(wrong.parse::<Traits>(), Err(()), "{wrong}");
        }
        for (level, name) in Assurance::ALL {
            assert_eq!((level.name(), name.parse()), (name, Ok(level)));
        }
    }

    #[test]
    fn a_platform_is_a_short_word() {
        assert_eq!(platform("Android").as_deref(), Some("android"));
        assert_eq!(platform("a b/c").as_deref(), Some("a_b_c"));
        assert_eq!(platform(&"x".repeat(99)).map(|text| text.len()), Some(32));
        assert_eq!(platform("  "), None);
    }

    #[test]
    fn methods_are_those_of_the_registry() {
        let methods = |names: &[&str]| Methods::of(names);
        let both = methods(&["pwd", "otp"]).expect("both are known");
        assert_eq!(both.names(), ["otp", "pwd"]);
        let password = methods(&["pwd"]).expect("it is known");
        assert!(
            both.contains(password) && !password.contains(both) && both.contains(Methods::NONE)
        );
        assert!(both.meets(password) && !both.meets(Methods::NONE));
        assert!(methods(&["password"]).is_err_and(|why| why.contains("pwd")));
    }
}
