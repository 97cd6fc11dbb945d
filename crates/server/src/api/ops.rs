//! For those who keep the server running: health, metrics, findings, and the pages that explain.

use std::fmt::Write as _;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use reauth_domain::apps::policies;
use reauth_domain::cutoffs::revocations;
use reauth_domain::sessions::sweep;
use reauth_domain::tasks::{self, Resting};
use reauth_domain::{Place, Read, Span, apps, ledger};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Answer, ErrorBody, KINDS};
use super::who::Operator;
use crate::app::App;

/// The process runs.
#[utoipa::path(get, path = "/health/live", tag = "operations", responses((status = 200)))]
pub(crate) async fn live() -> StatusCode {
    StatusCode::OK
}

/// Requests can be answered truthfully: the database answers and the Live view is up to date.
#[utoipa::path(get, path = "/health/ready", tag = "operations",
    responses((status = 200), (status = 503, body = ErrorBody)))]
pub(crate) async fn ready(State(state): State<App>) -> Result<StatusCode, Answer> {
    state.db.live().counts()?;
    ledger::head(&mut state.db.read().await?).await?;
    Ok(StatusCode::OK)
}

/// Counters in the text form of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(State(state): State<App>) -> Result<Response, Answer> {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], state.metrics.text().await?).into_response())
}

/// This server's API as OpenAPI 3.1.
pub(crate) async fn openapi() -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, super::openapi()).into_response()
}

/// What an operator should know.
#[derive(Serialize, ToSchema)]
pub(crate) struct DoctorView {
    /// No finding is an error.
    ok: bool,
    findings: Vec<Finding>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Finding {
    /// `ok`, `warning` or `error`.
    level: &'static str,
    /// What was looked at.
    check: &'static str,
    /// What was found, and what to do.
    detail: String,
}

/// Looks at the server and says what is wrong. For the operator.
#[utoipa::path(get, path = "/admin/doctor", tag = "operations",
    responses((status = 200, body = DoctorView), (status = 401, body = ErrorBody)))]
pub(crate) async fn doctor(who: Operator) -> Result<Json<DoctorView>, Answer> {
    let state = &who.state;
    let mut findings = vec![database(state), sandbox(state).await];
    let mut read = state.db.read().await?;
    let head = ledger::head(&mut read).await?;
    let detail = format!("{} entries; `reauth ledger verify` proves them", head.seq);
    findings.push(Finding { level: "ok", check: "ledger", detail });
    findings.push(fence(&mut read).await?);
    findings.push(clock(state));
    findings.push(tasks_of(&mut read).await?);
    for (app, set_at) in revocations::unreadable(&mut read).await? {
        let detail = format!(
            "the revocation of {set_at} in app {app} cannot be read: everyone there had to sign in \
             again; whom it was to end, or to wipe, `reauth ledger show` tells"
        );
        findings.push(Finding { level: "warning", check: "revocations", detail });
    }
    let (all, _) = apps::page(&mut read, apps::PAGE_ROWS_MAX, 0).await?;
    let looked = sweep::look(&state.db).await?;
    for app in all {
        findings.push(match is_bounded(state, &mut read, &app).await {
            Ok(is_bounded) => bound(&app, is_bounded, looked.endless_users_of(app.id)),
            Err(error) => {
                let detail = format!("{}: nobody is let in: {error}", app.name);
                Finding { level: "error", check: "access bound", detail }
            }
        });
    }
    let ok = findings.iter().all(|finding| finding.level != "error");
    Ok(Json(DoctorView { ok, findings }))
}

/// Whether the restore fence was raised lately: then everyone had to sign in again.
async fn fence(read: &mut Read) -> Result<Finding, Answer> {
    /// So long it is news.
    const NEWS: Span = Span::days(7);
    let (level, detail) = match ledger::last_fence(read).await? {
        None => ("ok", "no copy was put in this store's place".to_owned()),
        Some((at, why)) => {
            let is_news = read.now() - NEWS < at;
            let detail = format!("what was made until {at} is void: {why}");
            (if is_news { "warning" } else { "ok" }, detail)
        }
    };
    Ok(Finding { level, check: "restore fence", detail })
}

/// Whether every session surely ends; refused if someone of the app cannot be judged.
async fn is_bounded(state: &App, read: &mut Read, app: &apps::App) -> reauth_domain::Result<bool> {
    let all = policies::all(read, app.id).await?;
    // A version that holds no longer can be unreadable, too: Live has seen all.
    state.db.live().readable(app.id)?;
    Ok(policies::is_bounded(app.settings.max_session_age, &all, read.now()))
}

/// Whether all access to an app surely ends.
fn bound(app: &apps::App, is_bounded: bool, endless_users: usize) -> Finding {
    let (name, id, max_age) = (&app.name, app.id, app.settings.max_session_age);
    let mend = format!("`reauth app set {id} --max-session-age 30d` ends them");
    let (level, detail) = match (endless_users, max_age) {
        (0, Some(age)) => ("ok", format!("{name}: every session ends within {age}")),
        (0, None) if is_bounded => ("ok", format!("{name}: its policies end every session")),
        (0, None) => {
            ("warning", format!("{name}: sessions that begin from now on have no end; {mend}"))
        }
        (users, _) => {
            let named = format!("`reauth user access-bound --app {id}` names them");
            ("warning", format!("{name}: the access of {users} users has no end; {named}; {mend}"))
        }
    };
    Finding { level, check: "access bound", detail }
}

fn database(state: &App) -> Finding {
    let kind = match state.db.place() {
        Place::Directory(dir) => format!("SQLite in {}", dir.display()),
        Place::Postgres(_) => "PostgreSQL".to_owned(),
    };
    match state.db.live().counts() {
        Ok((sessions, users, apps)) => {
            let detail = format!("{kind}: {apps} apps, {users} users, {sessions} sessions");
            Finding { level: "ok", check: "database", detail }
        }
        Err(error) => Finding { level: "error", check: "database", detail: format!("{error}") },
    }
}

async fn sandbox(state: &App) -> Finding {
    match state.sandbox.probe().await {
        Ok(guards) => {
            let level = if guards.is_complete() { "ok" } else { "warning" };
            Finding { level, check: "sandbox", detail: guards.to_string() }
        }
        Err(why) => {
            let detail = format!("{why}: tasks cannot run; is the program's file still there?");
            Finding { level: "error", check: "sandbox", detail }
        }
    }
}

/// Whether someone should look after a task.
async fn tasks_of(read: &mut Read) -> Result<Finding, Answer> {
    let (dead, resting) = tasks::needs_attention(read).await?;
    let mut all = Vec::new();
    if dead > 0 {
        let how = "`reauth task runs --state dead` lists them, `reauth task retry` tries again";
        all.push(format!("{dead} runs gave no answer: {how}"));
    }
    all.extend(resting.into_iter().map(|Resting { app: (id, app), task, why }| {
        format!("task {task} of app {app} ({id}) rests: {why}")
    }));
    if all.is_empty() {
        let detail = "no run and no schedule needs a look".to_owned();
        return Ok(Finding { level: "ok", check: "tasks", detail });
    }
    Ok(Finding { level: "warning", check: "tasks", detail: all.join("; ") })
}

/// The clock may stand at its floor because the machine's clock was set back.
fn clock(state: &App) -> Finding {
    let behind = (state.db.now() - reauth_domain::Clock::machine_time()).whole_seconds();
    if behind > 60 {
        let detail =
            format!("the machine's clock is {behind} s behind what was seen before: set it right");
        return Finding { level: "warning", check: "clock", detail };
    }
    Finding { level: "ok", check: "clock", detail: "the machine's clock moves on".into() }
}

/// What each `type` of an error means and what to do: where `see` points.
pub(crate) async fn errors() -> Html<String> {
    let mut page = String::from(concat!(
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content=\"width=device-width,initial-scale=1\">",
        "<title>Errors · Reauth</title><style>",
        "body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:2rem auto;padding:0 1rem;",
        "color:#1c2024;background:#fff}h2{font-size:1rem;margin:1.6rem 0 0}",
        "code{background:#eef1f4;padding:.1rem .3rem;border-radius:.25rem}",
        "h2:target{background:#fff3c4}p{margin:.2rem 0}",
        "@media(prefers-color-scheme:dark){body{color:#e6e8ea;background:#16191c}",
        "code{background:#2a2f34}h2:target{background:#4a3d0a}}",
        "</style><h1>Errors</h1>",
        "<p>Rely on <code>type</code> and the status; the rest is for people."
    ));
    for (_, status, name, title, advice) in KINDS {
        // Writing to a String cannot fail.
        let _ = write!(page, "<h2 id={name}><code>{name}</code> {status}</h2><p>{title}. {advice}");
    }
    Html(page)
}
