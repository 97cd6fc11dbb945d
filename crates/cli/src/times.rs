//! Times as people write and read them.

use std::str::FromStr;

use reauth_sdk::{Moment, Span};

/// Since when: a moment, or so long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    At(Moment),
    Ago(Span),
}

impl Since {
    /// As a moment, seen from now.
    pub(crate) const fn from(self, now: Moment) -> Moment {
        match self {
            Self::At(moment) => moment,
            Self::Ago(span) => now.before(span),
        }
    }
}

impl FromStr for Since {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let moment = text.parse().map(Self::At).ok();
        let since = moment.or_else(|| text.parse().map(Self::Ago).ok());
        since.ok_or("write a date (2026-05-01), a moment (2026-05-01T08:30:00Z) or an age (7d)")
    }
}

/// A moment to the minute in UTC: `2026-05-01 08:30Z`.
pub(crate) fn at(moment: Moment) -> String {
    let text = moment.to_string();
    let minute = text.rsplit_once(':').map_or(text.as_str(), |(minute, _)| minute);
    format!("{}Z", minute.replacen('T', " ", 1))
}

/// A moment that may not have come.
pub(crate) fn at_or(moment: Option<Moment>, otherwise: &str) -> String {
    moment.map_or_else(|| otherwise.to_owned(), at)
}

/// A length of time in its two largest units: `31d 4h`, `5m 12s`.
pub(crate) fn lasting(span: Span) -> String {
    let seconds = span.seconds();
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let Some(first) = parts.iter().position(|(number, _)| *number > 0) else {
        return "0s".to_owned();
    };
    let shown = parts.iter().skip(first).take(2).filter(|(number, _)| *number > 0);
    let shown: Vec<String> = shown.map(|(number, unit)| format!("{number}{unit}")).collect();
    shown.join(" ")
}

/// Milliseconds as seconds: `1.204 s`.
pub(crate) fn millis(millis: u64) -> String {
    format!("{}.{:03} s", millis / 1_000, millis % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_moment_or_an_age() {
        let now: Moment = "2026-05-08T10:00:00Z".parse().expect("a moment");
        for (text, wanted) in [
            ("2026-05-01", "2026-05-01T00:00:00Z"),
            ("2026-05-01T08:30:00Z", "2026-05-01T08:30:00Z"),
            ("7d", "2026-05-01T10:00:00Z"),
            ("90m", "2026-05-08T08:30:00Z"),
        ] {
            let since: Since = text.parse().expect("a time");
            assert_eq!(since.from(now).to_string(), wanted, "{text}");
        }
        assert!("last week".parse::<Since>().is_err());
    }

    #[test]
    fn moments_are_shown_to_the_minute() {
        let moment = "2026-05-01T08:30:59Z".parse().expect("a moment");
        assert_eq!(at(moment), "2026-05-01 08:30Z");
        assert_eq!(at_or(None, "never"), "never");
    }

    #[test]
    fn lengths_of_time_have_two_units_at_most() {
        for (seconds, wanted) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (312, "5m 12s"),
            (3_600, "1h"),
            (3_601, "1h"),
            (86_399, "23h 59m"),
            (31 * 86_400 + 4 * 3_600 + 59, "31d 4h"),
        ] {
            assert_eq!(lasting(Span::from_seconds(seconds)), wanted, "{seconds}");
        }
    }

    #[test]
    fn milliseconds_are_shown_as_seconds() {
        assert_eq!(millis(1_204), "1.204 s");
        assert_eq!(millis(7), "0.007 s");
    }
}
