//! Failures as people read them: what is wrong, what to do, and the exit code.

use std::io::{self, Write as _};
use std::process::ExitCode;

use reauth_sdk::Error;

use crate::output::plain_lines;

/// Why a verb ended without success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    what: String,
    help: Option<String>,
    code: u8,
}

/// The answer of everything here that can fail.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// Nobody reads what we write (`reauth … | head`): the verb is over, and no error is shown.
const READER_GONE: u8 = 0;

impl Failure {
    /// Something failed: exit code 1.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: None, code: FAILED }
    }

    /// Something was asked for that cannot be meant: exit code 2.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self { code: USAGE, ..Self::new(what) }
    }

    /// With what to do about it.
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Says so on stderr and answers the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if self.code != READER_GONE {
            // When nobody reads stderr either, the exit code still tells.
            let _ = io::stderr().lock().write_all(self.text().as_bytes());
        }
        ExitCode::from(self.code)
    }

    fn text(&self) -> String {
        let what = plain_lines(&self.what);
        let help = self.help.as_deref().map(plain_lines);
        let help = help.map(|help| format!("help: {help}\n")).unwrap_or_default();
        format!("error: {what}\n{help}")
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::new(error.what());
        match advice(&error) {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

/// What to do, in the words of this program where it can do something about it.
fn advice(error: &Error) -> Option<&'static str> {
    let Error::Answer { kind, .. } = error else {
        return match error {
            Error::Unreachable { .. } => Some(
                "check that the server runs (`reauth serve`) and that --url or REAUTH_URL is its \
                 address",
            ),
            _ => error.advice(),
        };
    };
    match kind.as_str() {
        "AUTHENTICATION_FAILED" => {
            Some("set REAUTH_TOKEN, or --token, to a token that is valid on this server")
        }
        "PERMISSION_DENIED" => {
            Some("use a token with this scope; `reauth token create NAME --scope SCOPE` makes one")
        }
        "ACCOUNT_NOT_FOUND" => Some("choose an app with --app ID; `reauth app list` shows them"),
        _ => error.advice(),
    }
}

impl From<io::Error> for Failure {
    /// Failures of our own output: all that is read from files is reported with its path.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { what: String::new(), help: None, code: READER_GONE };
        }
        Self::new(format!("cannot write the output: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: &str, detail: &str) -> Error {
        Error::Answer {
            status: 403,
            kind: kind.into(),
            title: "title".into(),
            detail: detail.into(),
            field: None,
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong_and_what_to_do() {
        let failure = Failure::from(answer("PERMISSION_DENIED", "users:write is missing"));
        assert_eq!(failure.code, 1);
        let lines: Vec<String> = failure.text().lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "error: users:write is missing");
        assert!(lines[1].starts_with("help: use a token with this scope"), "{}", lines[1]);
        let failure = Failure::from(answer("INVALID_VALUE", "name: too long"));
        assert_eq!(failure.text(), "error: name: too long\n");
    }

    #[test]
    fn nobody_there_names_the_server_and_how_to_start_one() {
        let error = Error::Unreachable { url: "http://a".into(), why: "refused".into() };
        let text = Failure::from(error).text();
        assert!(text.starts_with("error: no answer from http://a: refused\nhelp: "), "{text}");
        assert!(text.contains("reauth serve") && text.contains("REAUTH_URL"), "{text}");
    }

    #[test]
    fn a_reader_who_left_is_no_failure() {
        let gone = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(gone.code, 0);
        let full = Failure::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.code, 1);
    }

    #[test]
    fn an_answer_cannot_speak_to_the_terminal() {
        let failure = Failure::from(answer("CONFLICT", "a\u{1b}[2Jb\nc"));
        assert_eq!(failure.text(), "error: a\u{fffd}[2Jb\nc\n");
    }
}
