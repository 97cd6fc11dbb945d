//! Lets a person type what they are about to do. Whoever is no person has meant it.

use std::io::{self, BufRead, IsTerminal as _, Write};

use crate::failure::{Failure, Result};
use crate::output::plain;

/// Whether someone sits at the terminal who can be asked.
pub(crate) fn is_person() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Goes on if there is nobody to ask, or if they type the word.
pub(crate) fn by_word(yes: bool, what: &str, word: &str) -> Result<()> {
    if yes || !is_person() || typed(what, word, io::stdin().lock(), io::stderr().lock())? {
        return Ok(());
    }
    Err(Failure::new("not confirmed: nothing was changed").help("--yes leaves the question out"))
}

fn typed(what: &str, word: &str, mut from: impl BufRead, mut to: impl Write) -> io::Result<bool> {
    write!(to, "{}. Type {} to go on: ", plain(what), plain(word))?;
    to.flush()?;
    let mut line = String::new();
    from.read_line(&mut line)?;
    Ok(line.trim() == word.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_word_confirms() {
        for (answer, is_confirmed) in
            [("everyone\n", true), (" everyone \r\n", true), ("yes\n", false), ("", false)]
        {
            let mut asked = Vec::new();
            let typed = typed("This ends all", "everyone", answer.as_bytes(), &mut asked);
            assert_eq!(typed.expect("no output fails here"), is_confirmed, "{answer:?}");
            let asked = String::from_utf8(asked).expect("UTF-8");
            assert_eq!(asked, "This ends all. Type everyone to go on: ");
        }
    }
}
