//! Who asks: the extractor types are the permissions. A handler that takes `Backend<UsersRead>`
//! cannot be reached without a token of that app with that scope.

use std::marker::PhantomData;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::{HeaderMap, header, request::Parts};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reauth_domain::access::Because;
use reauth_domain::ledger::By;
use reauth_domain::tokens::{Scope, Scopes};
use reauth_domain::{Admitted, AppId, RunId, SecretHash, SecretKind, Tx, kind_of_secret};

use super::answer::{Answer, Kind};
use crate::app::App;
use crate::simulation::Rehearsed;

/// A scope as a type.
pub(crate) trait Permission: Send + Sync {
    /// The scope.
    const SCOPE: Scope;
    /// Another one that is as good.
    const OR: Option<Scope> = None;
}

macro_rules! permissions {
    ($($name:ident),+ $(,)?) => {$(
        pub(crate) struct $name;
        impl Permission for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )+};
}

permissions!(
    UsersRead,
    UsersWrite,
    SessionsEnd,
    LedgerRead,
    TasksRead,
    TasksWrite,
    TasksRun,
    AppAdmin,
);

/// What became of runs: for those who read tasks, and for those who run them.
pub(crate) struct RunsRead;

impl Permission for RunsRead {
    const SCOPE: Scope = Scope::TasksRead;
    const OR: Option<Scope> = Some(Scope::TasksRun);
}

/// A program with a token of the app in the path, with the scope `P`; or the operator.
pub(crate) struct Backend<P> {
    pub(crate) app: AppId,
    pub(crate) state: App,
    pub(crate) scopes: Scopes,
    by: By,
    secret: SecretHash,
    permission: PhantomData<P>,
}

impl<P: Permission> Backend<P> {
    /// Begins a change in this caller's name.
    pub(crate) async fn write(&self) -> Result<Tx, Answer> {
        // Asked before the writer is waited for: the run may end meanwhile.
        let rehearsal = self.rehearsal()?;
        let tx = self.write_for_good().await?;
        Ok(match rehearsal {
            Some(rehearsal) => tx.rehearsed(&rehearsal.changes),
            None => tx,
        })
    }

    /// As `write`, even for a run that is rehearsed.
    pub(crate) async fn write_for_good(&self) -> Result<Tx, Answer> {
        let tx = self.state.db.write(self.by.clone()).await?;
        if self.run().is_some() {
            // A run that was ended while it waited for the writer changes nothing any more.
            self.state.db.live().admit(&self.secret, tx.now())?.map_err(refused)?;
        }
        Ok(tx)
    }

    /// The run whose token this is.
    pub(crate) fn run(&self) -> Option<RunId> {
        match self.by {
            By::Task { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Refuses what no task may do, before it costs anything.
    pub(crate) fn refuse_task(&self) -> Result<(), Answer> {
        Ok(self.by.refuse_task()?)
    }

    /// Whether this caller's changes are only noted.
    pub(crate) fn is_rehearsed(&self) -> Result<bool, Answer> {
        Ok(self.rehearsal()?.is_some())
    }

    /// In a simulation only tasks ask, by whichever token; else it is a matter of the run. Of one
    /// that is not going here it is not known: it may change nothing.
    fn rehearsal(&self) -> Result<Option<Rehearsed>, Answer> {
        let Some(run) = self.run().filter(|_| self.state.rehearsal.is_none()) else {
            return Ok(self.state.rehearsal.clone());
        };
        match self.state.going.run(run) {
            Some(going) => Ok(going.rehearsal.clone()),
            None => Err(refused(Because::Revoked)),
        }
    }

    /// Requires one more scope than `P`.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), Answer> {
        require(self.scopes, scope)
    }
}

impl<P: Permission> FromRequestParts<App> for Backend<P> {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &App) -> Result<Self, Answer> {
        let app = app_in_path(parts, state).await?;
        let (admitted, secret) = admit(state, &parts.headers, Some(app))?;
        if !P::OR.is_some_and(|scope| admitted.scopes.allow(scope)) {
            require(admitted.scopes, P::SCOPE)?;
        }
        Ok(Self {
            app,
            state: state.clone(),
            scopes: admitted.scopes,
            by: admitted.by,
            secret,
            permission: PhantomData,
        })
    }
}

/// The operator.
pub(crate) struct Operator {
    pub(crate) state: App,
    by: By,
}

impl Operator {
    /// Begins a change in the operator's name.
    pub(crate) async fn write(&self) -> Result<Tx, Answer> {
        let tx = self.state.db.write(self.by.clone()).await?;
        Ok(match &self.state.rehearsal {
            Some(rehearsal) => tx.rehearsed(&rehearsal.changes),
            None => tx,
        })
    }
}

impl FromRequestParts<App> for Operator {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &App) -> Result<Self, Answer> {
        let (admitted, _) = admit(state, &parts.headers, None)?;
        require(admitted.scopes, Scope::Operator)?;
        Ok(Self { state: state.clone(), by: admitted.by })
    }
}

/// The app named in the path of a device's request; the device proves itself in the request.
pub(crate) struct DeviceApp {
    pub(crate) app: AppId,
    pub(crate) state: App,
}

impl FromRequestParts<App> for DeviceApp {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &App) -> Result<Self, Answer> {
        Ok(Self { app: app_in_path(parts, state).await?, state: state.clone() })
    }
}

async fn app_in_path(parts: &mut Parts, state: &App) -> Result<AppId, Answer> {
    let unknown = || Answer::new(Kind::AccountNotFound, "no app has this id: check the address");
    let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| unknown())?;
    let found = params.iter().find(|(name, _)| *name == "app").map(|(_, value)| value);
    let app: AppId = found.unwrap_or_default().parse().map_err(|_| unknown())?;
    if state.db.live().has_app(app)? { Ok(app) } else { Err(unknown()) }
}

/// Whether a request has a token that can be used for this app.
pub(crate) fn is_known(state: &App, headers: &HeaderMap, app: AppId) -> bool {
    admit(state, headers, Some(app)).is_ok()
}

/// The run that asks, if this is the token of one that is going, of whichever app. Whatever else it
/// is says nothing.
pub(crate) fn calling_run(state: &App, token: &str) -> Result<Option<RunId>, Answer> {
    if !matches!(kind_of_secret(token), Some(SecretKind::Run)) {
        return Ok(None);
    }
    let admitted = state.db.live().admit(&SecretHash::of(token), state.db.now())?;
    Ok(match admitted.map(|admitted| admitted.by) {
        Ok(By::Task { id, .. }) => Some(id),
        _ => None,
    })
}

/// The holder of the token, if the decision lets it be used, for this app.
fn admit(
    state: &App,
    headers: &HeaderMap,
    app: Option<AppId>,
) -> Result<(Admitted, SecretHash), Answer> {
    let token = credential(headers, app)?;
    let kind = kind_of_secret(&token);
    let is_ours = matches!(kind, Some(SecretKind::Api | SecretKind::Operator | SecretKind::Run));
    if !is_ours {
        let detail = "this is no API token: check that it was copied whole";
        return Err(Answer::new(Kind::AuthenticationFailed, detail));
    }
    let secret = SecretHash::of(&token);
    let admitted = state.db.live().admit(&secret, state.db.now())?.map_err(refused)?;
    let is_here = match (admitted.app, app) {
        (None, _) | (Some(_), None) => true,
        (Some(its), Some(wanted)) => its == wanted,
    };
    if is_here { Ok((admitted, secret)) } else { Err(refused(Because::Unknown)) }
}

fn refused(because: Because) -> Answer {
    let detail = match because {
        Because::Expired => "the token has expired: create a new one",
        Because::Revoked => "the token was revoked: create a new one",
        _ => "the token is not known for this app: check both",
    };
    Answer::new(Kind::AuthenticationFailed, detail)
}

fn require(scopes: Scopes, scope: Scope) -> Result<(), Answer> {
    if scopes.allow(scope) {
        return Ok(());
    }
    let detail = format!("the token lacks the scope {0}: create one that has it", scope.name());
    Err(Answer::new(Kind::PermissionDenied, detail))
}

/// The token of `Authorization: Token t`, `Bearer t`, `Bearer O:t`, or Basic with the app's id as
/// the user (contract, section 1).
fn credential(headers: &HeaderMap, app: Option<AppId>) -> Result<String, Answer> {
    let missing = |detail: &str| Answer::new(Kind::AuthenticationFailed, detail);
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let header = header.ok_or_else(|| missing("send an Authorization header with a token"))?;
    let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
    let rest = rest.trim();
    match scheme.to_ascii_lowercase().as_str() {
        "token" | "bearer" => Ok(rest.strip_prefix("O:").unwrap_or(rest).to_owned()),
        "basic" => {
            let pair = BASE64_STANDARD.decode(rest).ok().and_then(|it| String::from_utf8(it).ok());
            let pair = pair.ok_or_else(|| {
                missing("the Basic credentials cannot be read: send base64 of app id, colon, token")
            })?;
            let (user, password) = pair.split_once(':').unwrap_or_default();
            if app.is_some_and(|app| user != app.to_string()) {
                return Err(missing("the user of Basic credentials is the app's id"));
            }
            Ok(password.to_owned())
        }
        _ => Err(missing("send the token as Token, Bearer or Basic")),
    }
}

/// The device's session token of `Authorization: Bearer t`.
pub(crate) fn session_token(headers: &HeaderMap) -> Result<String, Answer> {
    credential(headers, None)
}
