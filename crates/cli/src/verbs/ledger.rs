//! `reauth ledger`: what happened, and the proof that nothing was changed since.

use clap::Subcommand;
use reauth_sdk::{By, Client, Entries, Entry, Head, InApp, Problem, Wanted};
use serde::Serialize;

use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::paging::Progress;
use crate::times::{Since, at};

/// The most entries that the server gives in one answer.
const PAGE_ENTRIES_MAX: u64 = 1_000;
/// The most entries that the server proves in one answer.
const VERIFY_ENTRIES_MAX: u64 = 50_000;
/// The first stretch that is searched from the end; each further one is so many times longer.
const STRETCH: u64 = 1_000;
const STRETCH_GROWTH: u64 = 4;

const SHOW_EXAMPLES: &str = "\
Shows the newest entries, in order: of the app that --app names, of the whole ledger with the
operator's token, or else of the token's own app.

Examples:
  reauth ledger show --since 7d
  reauth ledger show --user 01900000-0000-7000-8000-000000000001 --limit 10 --json";

const VERIFY_EXAMPLES: &str = "\
Recomputes the hash chain from the first entry to the last: edits, gaps and a cut end show. The
exit code is 1 if something is wrong. It needs the operator's token. Keep the last entry's hash
elsewhere: against someone who rewrites the whole chain, only a copy helps.

Example:
  reauth ledger verify --json";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Show what happened
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// Only about the user with this id
        #[arg(long, value_name = "ID")]
        user: Option<String>,
        /// Only since then: 2026-05-01, 2026-05-01T08:30:00Z, or an age such as 7d
        #[arg(long, value_name = "TIME")]
        since: Option<Since>,
        /// At most so many, the newest
        #[arg(long, value_name = "N", default_value_t = 50)]
        #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000))]
        limit: u64,
    },
    /// Prove that no entry was changed, left out or cut off
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify,
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<()> {
    match verb {
        Verb::Show { user, since, limit } => {
            let since = match since {
                Some(since @ Since::Ago(_)) => Some(since.from(context.client()?.now().await?)),
                Some(Since::At(moment)) => Some(moment),
                None => None,
            };
            let wanted = Wanted { user, since, ..Wanted::default() };
            let source = Source::choose(context).await?;
            let entries = newest(&source, &wanted, limit).await?;
            let columns = ["seq", "at", "what", "app", "user", "by", "why"];
            context.output.list(&entries, "entries", columns, row)
        }
        Verb::Verify => verify(context).await,
    }
}

/// Whose entries are read.
enum Source {
    Whole(Client),
    App(InApp),
}

impl Source {
    async fn choose(context: &Context) -> Result<Self> {
        let client = context.client()?;
        if let Some(id) = context.named_app() {
            return Ok(Self::App(client.app(id)));
        }
        let one = Wanted { limit: Some(1), ..Wanted::default() };
        match client.ledger(&one).await {
            Ok(_) => Ok(Self::Whole(client)),
            // No operator: then it is the token's own app that is meant.
            Err(error) if error.is_denied() => Ok(Self::App(context.app().await?)),
            Err(error) => Err(error.into()),
        }
    }

    async fn read(&self, wanted: &Wanted) -> Result<Entries> {
        Ok(match self {
            Self::Whole(client) => client.ledger(wanted).await?,
            Self::App(app) => app.ledger(wanted).await?,
        })
    }
}

/// The newest entries that are wanted, in order. The ledger is read forwards only, so it is
/// searched in stretches from its end, each longer than the one before.
async fn newest(source: &Source, wanted: &Wanted, limit: u64) -> Result<Vec<Entry>> {
    let progress = Progress::counting("entries");
    let first = source.read(&Wanted { limit: Some(1), ..wanted.clone() }).await?;
    let Some(oldest) = first.entries.first() else {
        return Ok(Vec::new());
    };
    let floor = oldest.seq.saturating_sub(1);
    let (mut end, mut stretch) = (first.head.seq, STRETCH);
    let mut found: Vec<Entry> = Vec::new();
    while end > floor && (found.len() as u64) < limit {
        let start = end.saturating_sub(stretch).max(floor);
        let mut earlier = between(source, wanted, start, end).await?;
        earlier.append(&mut found);
        found = earlier;
        progress.reach((found.len() as u64).min(limit), limit);
        end = start;
        stretch = stretch.saturating_mul(STRETCH_GROWTH);
    }
    let surplus = found.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found.split_off(surplus))
}

/// The entries that are wanted after the place `start`, up to the place `end`.
async fn between(source: &Source, wanted: &Wanted, start: u64, end: u64) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut after = start;
    loop {
        let limit = Some(PAGE_ENTRIES_MAX);
        let page = source.read(&Wanted { after, limit, ..wanted.clone() }).await?;
        let last = page.entries.last().map(|entry| entry.seq);
        found.extend(page.entries.into_iter().filter(|entry| entry.seq <= end));
        match last {
            Some(last) if page.more && last > after && last < end => after = last,
            _ => return Ok(found),
        }
    }
}

fn row(entry: &Entry) -> [String; 7] {
    [
        entry.seq.to_string(),
        at(entry.at),
        entry.kind.clone(),
        entry.app.clone().unwrap_or_default(),
        entry.user.clone().unwrap_or_default(),
        who(&entry.by),
        entry.why.clone().unwrap_or_default(),
    ]
}

fn who(by: &By) -> String {
    match (&by.name, &by.id) {
        (Some(name), _) => format!("{} {name}", by.kind),
        (None, Some(id)) if by.kind != "operator" => format!("{} {id}", by.kind),
        _ => by.kind.clone(),
    }
}

/// What was proven in all.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Proof {
    ok: bool,
    checked: u64,
    through: u64,
    head: Head,
    problem: Option<Problem>,
}

async fn verify(context: &Context) -> Result<()> {
    let client = context.client()?;
    let proof = prove(&client).await?;
    let mut text = format!("{} entries are proven", proof.checked);
    if proof.ok {
        let Head { seq, hash } = &proof.head;
        text = format!("{text}: the last is {seq}, with the hash {hash}");
    }
    context.output.either(&proof, &text)?;
    outcome(&proof)
}

async fn prove(client: &Client) -> Result<Proof> {
    let progress = Progress::counting("entries proven");
    let (mut after, mut checked) = (0, 0);
    loop {
        let part = client.verify_ledger(after, VERIFY_ENTRIES_MAX).await?;
        checked += part.checked;
        progress.reach(part.through, part.head.seq);
        let is_done = !part.ok || part.problem.is_some() || !part.more;
        if !is_done && part.through > after {
            after = part.through;
            continue;
        }
        if !is_done {
            let what = format!("the server stopped at entry {after} without a reason");
            return Err(Failure::new(what).help("nothing is proven; look at the server's log"));
        }
        let ok = part.ok && part.problem.is_none();
        let (through, head, problem) = (part.through, part.head, part.problem);
        return Ok(Proof { ok, checked, through, head, problem });
    }
}

fn outcome(proof: &Proof) -> Result<()> {
    if proof.ok {
        return Ok(());
    }
    let what = match &proof.problem {
        Some(Problem { seq, why }) => format!("the ledger is not intact at entry {seq}: {why}"),
        None => "the ledger is not intact; the server does not say where".to_owned(),
    };
    let help = "keep the database as it is, and compare it with a backup from before";
    Err(Failure::new(what).help(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(kind: &str, id: Option<&str>, name: Option<&str>) -> By {
        By { kind: kind.into(), id: id.map(Into::into), name: name.map(Into::into) }
    }

    #[test]
    fn who_did_it_is_said_by_name_where_there_is_one() {
        assert_eq!(who(&by("token", Some("0190"), Some("backend"))), "token backend");
        assert_eq!(who(&by("user", Some("0190"), None)), "user 0190");
        assert_eq!(who(&by("operator", Some("0190"), None)), "operator");
        assert_eq!(who(&by("system", None, None)), "system");
    }

    #[test]
    fn a_ledger_that_is_not_intact_fails_and_says_where() {
        let head = Head { seq: 9, hash: "00".into() };
        let proof = |ok, problem| Proof { ok, checked: 9, through: 9, head: head.clone(), problem };
        assert_eq!(outcome(&proof(true, None)), Ok(()));
        let problem = Problem { seq: 7, why: "the entry is missing".into() };
        let failure = outcome(&proof(false, Some(problem))).expect_err("a fault");
        assert!(format!("{failure:?}").contains("at entry 7: the entry is missing"));
        assert!(outcome(&proof(false, None)).is_err());
    }
}
