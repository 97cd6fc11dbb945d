//! What devices ask: to enrol, to connect, to sign out. A device proves itself with a secret of its
//! own, never with an API token.

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use reauth_domain::access::{Because, Verdict};
use reauth_domain::devices::Device;
use reauth_domain::ledger::By;
use reauth_domain::{Checked, Error, Time, devices, sessions};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::answer::{Answer, ErrorBody, Kind};
use super::read::{Address, Body};
use super::who::{DeviceApp, session_token};

#[derive(Deserialize, ToSchema)]
pub(crate) struct EnrollRequest {
    /// From `POST …/authentication-token`.
    authentication_token: String,
    device: DeviceRequest,
    /// What the user calls the device.
    label: Option<String>,
    /// `version`, `bundle_id`, `platform`.
    container: Option<Value>,
    /// `version`.
    runtime: Option<Value>,
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct DeviceRequest {
    /// The device's own id, the same at every enrolment.
    id: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct EnrollView {
    user_id: String,
    session_id: String,
    /// The device's secret, shown this once.
    session_token: String,
    /// `ENROLLED`.
    state: &'static str,
    ends_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ConnectView {
    /// `ENROLLED`.
    state: &'static str,
    ends_at: Option<String>,
    /// From when on the user should be told that the end is near (setting `warn_before`).
    warn_at: Option<String>,
    server_time: String,
}

/// Begins a session on a device; one that is known keeps its session id and gets a new secret.
#[utoipa::path(post, path = "/device/{app}/enroll", tag = "devices",
    params(("app" = String, Path)), request_body = EnrollRequest,
    responses((status = 200, body = EnrollView), (status = 401, body = ErrorBody)))]
pub(crate) async fn enroll(
    who: DeviceApp,
    Address(address): Address,
    Body(wanted): Body<EnrollRequest>,
) -> Result<Json<EnrollView>, Answer> {
    let device = Device {
        id: wanted.device.id,
        label: wanted.label,
        container: details("container", wanted.container)?,
        runtime: details("runtime", wanted.runtime)?,
        address: Some(address),
    };
    let mut tx = who.state.db.write(By::System).await?;
    let enrolled = devices::enroll(&mut tx, who.app, &wanted.authentication_token, device)
        .await
        .map_err(refused)?;
    tx.commit().await?;
    let checked = devices::check(&who.state.db, enrolled.secret.reveal())?;
    let ends_at = require(&who, enrolled.secret.reveal(), checked)?.1;
    Ok(Json(EnrollView {
        user_id: enrolled.user.to_string(),
        session_id: enrolled.session.to_string(),
        session_token: enrolled.secret.reveal().to_owned(),
        state: "ENROLLED",
        ends_at: ends_at.map(|at| at.to_string()),
    }))
}

/// An authentication token that does not work is a failed authentication, not an ended session.
/// What policies refuse is asked for again: other methods, another date.
fn refused(error: Error) -> Answer {
    match error {
        Error::SignInAgain(because @ (Because::MethodMissing | Because::NotAfter)) => {
            Answer::sign_in_again(because)
        }
        Error::SignInAgain(because) => {
            let detail =
                format!("the authentication token does not work ({because}): get a new one");
            Answer::new(Kind::AuthenticationFailed, detail)
        }
        other => other.into(),
    }
}

/// What a device tells of itself is an object with a few short texts.
fn details(field: &str, value: Option<Value>) -> Result<Option<Value>, Answer> {
    /// Enough for versions and bundle ids.
    const BYTES_MAX: usize = 2_048;
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) if value.is_object() && value.to_string().len() <= BYTES_MAX => Ok(Some(value)),
        Some(_) => {
            let why = format!("must be an object of at most {BYTES_MAX} bytes");
            Err(Error::invalid(field, why).into())
        }
    }
}

/// Says that the device is there, and tells it its state: ENROLLED with 200; LOCKED or RESET, with
/// the reason, with 401.
#[utoipa::path(post, path = "/device/{app}/connect", tag = "devices",
    params(("app" = String, Path)),
    responses((status = 200, body = ConnectView), (status = 401, body = ErrorBody)))]
pub(crate) async fn connect(
    who: DeviceApp,
    headers: HeaderMap,
) -> Result<Json<ConnectView>, Answer> {
    let (checked, ends_at) = of_this_app(&who, &headers)?;
    Ok(Json(ConnectView {
        state: "ENROLLED",
        ends_at: ends_at.map(|at| at.to_string()),
        warn_at: checked.warn_at.map(|at| at.to_string()),
        server_time: who.state.db.now().to_string(),
    }))
}

/// Signs out on this device. What has ended already stays as it is.
#[utoipa::path(post, path = "/device/{app}/sign-out", tag = "devices",
    params(("app" = String, Path)),
    responses((status = 204), (status = 401, body = ErrorBody)))]
pub(crate) async fn sign_out(who: DeviceApp, headers: HeaderMap) -> Result<StatusCode, Answer> {
    let (checked, _) = of_this_app(&who, &headers)?;
    let mut tx = who.state.db.write(By::User { id: checked.user }).await?;
    sessions::sign_out(&mut tx, who.app, checked.user, checked.session).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A token of another app is as unknown as none.
fn of_this_app(who: &DeviceApp, headers: &HeaderMap) -> Result<(Checked, Option<Time>), Answer> {
    let token = session_token(headers)?;
    let checked = devices::check(&who.state.db, &token)?;
    require(who, &token, checked.filter(|checked| checked.app == who.app))
}

fn require(
    who: &DeviceApp,
    token: &str,
    checked: Option<Checked>,
) -> Result<(Checked, Option<Time>), Answer> {
    let unknown = || Answer::sign_in_again(Because::Unknown);
    let checked = checked.ok_or_else(unknown)?;
    match checked.verdict {
        Verdict::Valid { ends_at } => Ok((checked, ends_at)),
        Verdict::Ended(ended) => {
            let explained = devices::explain(&who.state.db, token)?;
            let end = explained.and_then(|explained| explained.ends.into_iter().next());
            Err(Answer::session_ended(ended.because, end))
        }
    }
}
