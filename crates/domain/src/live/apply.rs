//! How each ledger entry changes the Live view. An entry that names what is not there means that
//! the view is wrong: an error, after which the view is built anew.

use std::sync::atomic::AtomicI64;

use super::policies::Rule;
use super::rules::Rules;
use super::view::{Token, View};
use crate::access::{Because, CutOffScope, Ended, Verdict};
use crate::apps::policies::Policy;
use crate::apps::selectors::Found;
use crate::cutoffs::revocations::{Filter, Met};
use crate::ledger::{Change, EndedSession, Entry};
use crate::tokens::TokenKind;
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, SessionId, UserId};
use crate::values::secret::SecretHash;
use crate::values::time::Time;

pub(super) fn apply(view: &mut View, entry: &Entry) -> Result<()> {
    let applied = match &entry.change {
        Change::AppCreated { settings, .. } => entry.app.and_then(|app| {
            view.add_app(app, Time::ZERO, settings.warn_before);
            view.app_mut(app).map(|app| app.add_era(entry.at, settings.limits()))
        }),
        Change::PoliciesSet { policies, found } => policies_set(view, entry, policies, found)?,
        Change::LimitsSet { .. } | Change::LimitsForgotten { .. } | Change::AppChanged { .. } => {
            of_app(view, entry)
        }
        Change::StoreFenced => {
            view.fence_at = entry.at;
            Some(())
        }
        Change::CutOffSet { scope } => cut_off(view, entry, scope),
        Change::RevocationSet { filter, wipes, met } => {
            revocation_set(view, entry, (filter, met), *wipes)
        }
        Change::RevocationDone { set_at } => {
            let app = entry.app.and_then(|app| view.app_mut(app));
            let is_left = |rule: &Rule| rule.policy().is_some() || rule.set_at != *set_at;
            app.map(|app| app.rules.retain(is_left))
        }
        Change::UserCreated { joined, .. } => user(entry).and_then(|(app, user)| {
            view.add_user(user, app, None, Time::ZERO)?;
            joined.iter().try_for_each(|group| join(view, entry, group))
        }),
        Change::UserChanged { ended, joined, left, .. } => {
            user_changed(view, entry, (joined, left), ended)
        }
        Change::UserNotAfterSet { not_after, ended } => set_date(view, entry, *not_after, ended),
        Change::UserLocked { ended } => end_user(view, entry, Because::UserLocked, ended),
        Change::UserDeleted { ended } => end_user(view, entry, Because::UserDeleted, ended),
        Change::UserUnlocked => {
            entry.user.and_then(|id| view.user_mut(id)).map(|user| user.ended = None)
        }
        Change::GroupMemberAdded { group } => join(view, entry, group),
        Change::GroupMemberRemoved { group, ended } => leave(view, entry, group, ended),
        Change::SessionEnrolled { .. }
        | Change::SessionReAuthenticate { .. }
        | Change::SessionEnded { .. }
        | Change::SessionEndingSoon { .. }
        | Change::SessionsForgotten { .. }
        | Change::SessionWiped { .. }
        | Change::SessionSignedOut { .. } => of_session(view, entry),
        Change::TokenCreated { .. } | Change::RunStarted { .. } => {
            add_token(view, entry);
            Some(())
        }
        Change::TokenRevoked { .. } | Change::RunEnded { .. } => end_token(view, entry),
        Change::StoreCreated
        | Change::ClockJumped { .. }
        | Change::EnrolmentIssued { .. }
        | Change::ActivityNoted { .. }
        | Change::TaskPut { .. }
        | Change::TaskDeleted { .. }
        | Change::RunQueued { .. }
        | Change::RunsForgotten { .. } => Some(()),
    };
    applied.ok_or_else(|| Error::Internal(format!("entry {} does not fit Live", entry.seq)))
}

fn of_app(view: &mut View, entry: &Entry) -> Option<()> {
    match &entry.change {
        Change::LimitsSet { limits, settings, .. } => {
            let app = entry.app.and_then(|app| view.app_mut(app));
            app.map(|app| {
                app.warn_before = settings.warn_before;
                app.add_era(entry.at, *limits);
            })
        }
        Change::LimitsForgotten { before } => {
            let app = entry.app.and_then(|app| view.app_mut(app));
            app.map(|app| app.forget(*before))
        }
        Change::AppChanged { settings, .. } => {
            let app = entry.app.and_then(|app| view.app_mut(app));
            app.map(|app| app.warn_before = settings.warn_before)
        }
        _ => None,
    }
}

fn of_session(view: &mut View, entry: &Entry) -> Option<()> {
    match &entry.change {
        Change::SessionEnrolled {
            session,
            secret_sha256,
            traits,
            authenticated_at,
            replaced,
            labels,
            ..
        } => {
            let at = authenticated_at.unwrap_or(entry.at);
            let kind = entry.user.and_then(|user| view.kind_of(user, traits, labels));
            kind.and_then(|kind| {
                let secret = (*secret_sha256, view.kinds.number(kind));
                enrolled(view, entry, (*session, at), secret, replaced)
            })
        }
        Change::SessionReAuthenticate { session } => {
            end(view, entry, *session, Because::ReAuthenticate)
        }
        Change::SessionEnded { session, at, because, policy } => {
            let (because, policy) = (because.clone(), policy.clone());
            let one = EndedSession { session: *session, at: *at, because, policy };
            entry.user.and_then(|user| end_all(view, user, &[one]))
        }
        Change::SessionEndingSoon { session, warning } => {
            let at = entry.user.and_then(|user| view.session_of(user, *session));
            at.map(|at| {
                view.warned.insert(at, warning.ends_at);
            })
        }
        Change::SessionsForgotten { sessions, .. } => {
            sessions.iter().try_for_each(|(user, session)| view.forget_session(*user, *session))
        }
        Change::SessionWiped { session } => end(view, entry, *session, Because::Wiped),
        Change::SessionSignedOut { session } => end(view, entry, *session, Because::SignedOut),
        _ => None,
    }
}

fn end_token(view: &mut View, entry: &Entry) -> Option<()> {
    match &entry.change {
        Change::TokenRevoked { secret_sha256, .. } => view
            .tokens
            .get_mut(secret_sha256)
            .map(|token| token.ended = Some(Ended { at: entry.at, because: Because::Revoked })),
        Change::RunEnded { secret_sha256, .. } => {
            // The token dies with its run; nobody asks for it again.
            if let Some(secret) = secret_sha256 {
                view.tokens.remove(secret);
            }
            Some(())
        }
        _ => None,
    }
}

fn policies_set(
    view: &mut View,
    entry: &Entry,
    policies: &[Policy],
    found: &Found,
) -> Result<Option<()>> {
    let Some(app) = entry.app else { return Ok(None) };
    policies.iter().try_for_each(|policy| view.name(app, policy))?;
    let rules = view.amended(app, policies, found, entry.at)?;
    let met = view.meet(app, found, entry.at);
    Ok(met.and_then(|()| view.app_mut(app)).map(|app| {
        app.rules = Rules::new(rules);
        app.unreadable = None;
    }))
}

fn revocation_set(
    view: &mut View,
    entry: &Entry,
    (filter, met): (&Filter, &Met),
    wipes: bool,
) -> Option<()> {
    let app = entry.app?;
    let rule = view.cut(app, filter, met, wipes, entry.at);
    view.app_mut(app).map(|app| app.rules.push(rule))
}

fn user_changed(
    view: &mut View,
    entry: &Entry,
    (joined, left): (&[String], &[String]),
    ended: &[EndedSession],
) -> Option<()> {
    left.iter().try_for_each(|group| leave(view, entry, group, &[]))?;
    joined.iter().try_for_each(|group| join(view, entry, group))?;
    end_all(view, entry.user?, ended)
}

fn set_date(
    view: &mut View,
    entry: &Entry,
    not_after: Option<Time>,
    ended: &[EndedSession],
) -> Option<()> {
    let at = view.user(entry.user?)?;
    match not_after {
        Some(not_after) => view.dates.insert(at, (entry.at, not_after)),
        None => view.dates.remove(&at),
    };
    end_all(view, entry.user?, ended)
}

fn user(entry: &Entry) -> Option<(AppId, UserId)> {
    Some((entry.app?, entry.user?))
}

fn cut_off(view: &mut View, entry: &Entry, scope: &CutOffScope) -> Option<()> {
    match scope {
        CutOffScope::Everyone => view.everyone_not_before = entry.at,
        CutOffScope::App { app } => view.app_mut(*app)?.not_before = entry.at,
        CutOffScope::Group { app, name } => {
            let group = view.group(*app, name)?;
            view.group_mut(group)?.not_before = entry.at;
        }
        CutOffScope::User { user } => view.user_mut(*user)?.not_before = entry.at,
    }
    Some(())
}

fn end_user(
    view: &mut View,
    entry: &Entry,
    because: Because,
    ended: &[EndedSession],
) -> Option<()> {
    let id = entry.user?;
    view.user_mut(id)?.ended = Some(Ended { at: entry.at, because });
    end_all(view, id, ended)
}

fn end_all(view: &mut View, user: UserId, ended: &[EndedSession]) -> Option<()> {
    for one in ended {
        let because = one.because.parse().ok()?;
        let at = view.session_of(user, one.session)?;
        view.end_session(at, Ended { at: one.at, because }, one.policy.as_deref());
    }
    Some(())
}

fn end(view: &mut View, entry: &Entry, session: SessionId, because: Because) -> Option<()> {
    let at = view.session_of(entry.user?, session)?;
    // What had ended before, and wipes only now, ended when it did.
    let ended_at = match view.judge(at, entry.at).verdict {
        Verdict::Ended(ended) => ended.at,
        Verdict::Valid { .. } => entry.at,
    };
    view.end_session(at, Ended { at: ended_at, because }, None);
    Some(())
}

fn enrolled(
    view: &mut View,
    entry: &Entry,
    (session, authenticated_at): (SessionId, Time),
    secret: (SecretHash, u16),
    replaced: &[EndedSession],
) -> Option<()> {
    let id = entry.user?;
    if let Some(at) = view.session_of(id, session) {
        view.renew_session(at, secret, (authenticated_at, entry.at));
    } else {
        let user = view.user(id)?;
        view.add_session(user, session, secret, (authenticated_at, entry.at), None);
    }
    end_all(view, id, replaced)
}

fn join(view: &mut View, entry: &Entry, group: &str) -> Option<()> {
    let (app, id) = user(entry)?;
    let at = view.group(app, group)?;
    view.join(id, at, entry.at)
}

fn leave(view: &mut View, entry: &Entry, group: &str, ended: &[EndedSession]) -> Option<()> {
    let (app, id) = user(entry)?;
    let at = view.group(app, group)?;
    view.leave(id, at)?;
    end_all(view, id, ended)
}

fn add_token(view: &mut View, entry: &Entry) {
    let (id, kind, name, scopes, secret, expires_at) = match &entry.change {
        Change::TokenCreated { token, name, scopes, secret_sha256, expires_at } => {
            let kind = if entry.app.is_some() { TokenKind::Api } else { TokenKind::Operator };
            (token.uuid(), kind, name, scopes, secret_sha256, *expires_at)
        }
        Change::RunStarted { run, task, scopes, secret_sha256, expires_at, .. } => {
            (run.uuid(), TokenKind::Run, task, scopes, secret_sha256, Some(*expires_at))
        }
        _ => return,
    };
    let token = Token {
        id,
        kind,
        app: entry.app,
        name: name.clone(),
        scopes: *scopes,
        created_at: entry.at,
        expires_at,
        ended: None,
        used_at: AtomicI64::new(0),
        flushed_at: AtomicI64::new(0),
    };
    view.tokens.insert(*secret, token);
}
