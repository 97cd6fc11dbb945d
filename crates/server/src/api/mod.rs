//! Who talks to us: the table of all routes. One file a noun beside it.

mod admin;
pub(crate) mod answer;
pub(crate) mod check;
mod devices;
mod groups;
mod ledger;
mod objects;
mod ops;
pub(crate) mod policies;
mod read;
pub(crate) mod tasks;
mod users;
pub(crate) mod who;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{any, get};
use utoipa::openapi::{Info, License, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use answer::{Answer, Kind};

/// Every documented route. `GET /check` is answered before this table is looked at: see `app`.
fn table() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(OpenApi::new(about(), utoipa::openapi::Paths::new()))
        // Users and their device sessions (contract, section 2)
        .routes(routes!(users::list))
        .routes(routes!(users::show))
        .routes(routes!(users::show_session))
        .routes(routes!(users::lock))
        .routes(routes!(users::unlock))
        .routes(routes!(users::set_not_after))
        .routes(routes!(users::wipe))
        .routes(routes!(users::re_authenticate))
        .routes(routes!(users::authentication_token))
        // User objects (contract, section 3)
        .routes(routes!(objects::query::list, objects::create))
        .routes(routes!(objects::query::query))
        .routes(routes!(objects::show, objects::patch, objects::put, objects::delete))
        .routes(routes!(objects::batch))
        .routes(routes!(objects::models::datamodel))
        .routes(routes!(objects::models::info))
        // Groups, cut-offs, the ledger
        .routes(routes!(groups::list))
        .routes(routes!(groups::members))
        .routes(routes!(groups::add, groups::remove))
        .routes(routes!(ledger::list))
        // Policies and what they lead to
        .routes(routes!(policies::list, policies::put))
        .routes(routes!(policies::preview))
        .routes(routes!(policies::access::explain))
        .routes(routes!(policies::access::access_bound))
        .routes(routes!(policies::access::access_bounds))
        .routes(routes!(policies::revocations::revoke))
        .routes(routes!(policies::revocations::preview))
        // Tasks (contract, section 4)
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::show, tasks::put, tasks::delete))
        .routes(routes!(tasks::runs::run))
        .routes(routes!(tasks::runs::list_of_task))
        .routes(routes!(tasks::runs::list))
        .routes(routes!(tasks::runs::show))
        .routes(routes!(tasks::runs::cancel))
        .routes(routes!(tasks::runs::retry))
        // Devices
        .routes(routes!(devices::enroll))
        .routes(routes!(devices::connect))
        .routes(routes!(devices::sign_out))
        // The operator
        .routes(routes!(admin::list, admin::create))
        .routes(routes!(admin::show, admin::change))
        .routes(routes!(admin::list_tokens, admin::create_token))
        .routes(routes!(admin::revoke_token))
        .routes(routes!(admin::revoke_everyone))
        .routes(routes!(ledger::list_all))
        .routes(routes!(ledger::verify))
        .routes(routes!(ops::doctor))
        // Operations
        .routes(routes!(ops::live))
        .routes(routes!(ops::ready))
        .routes(routes!(ops::metrics))
}

fn about() -> Info {
    let mut about = Info::new("Reauth", env!("CARGO_PKG_VERSION"));
    about.description =
        Some("The session authority: users, device sessions, and their end.".into());
    about.license = Some(License::new("Apache-2.0"));
    about
}

/// The router of a running server.
pub(crate) fn router(app: App) -> Router {
    let (router, _) = table().split_for_parts();
    router
        .route("/openapi.json", get(ops::openapi))
        .route("/errors", get(ops::errors))
        .route("/api/v4/{app}/objects/{type}", any(objects::no_such_type))
        .route("/tasks/{app}/{task}", any(tasks::web::answer))
        .route("/tasks/{app}/{task}/{*path}", any(tasks::web::answer))
        .fallback(no_route)
        // A body has been read within its limit before it comes here.
        .layer(DefaultBodyLimit::disable())
        .method_not_allowed_fallback(no_route)
        .with_state(app)
}

/// The OpenAPI document, pretty JSON with an end of line: what is committed in `docs/openapi.json`.
pub fn openapi() -> String {
    let mut document = table().into_openapi();
    document.paths.paths.insert("/check".into(), check::path_item());
    let text = document.to_pretty_json().unwrap_or_default();
    text + "\n"
}

async fn no_route() -> Answer {
    Answer::new(Kind::RouteError, "nothing is at this address with this method: see /openapi.json")
}
