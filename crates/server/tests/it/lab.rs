//! The laboratory: a real server on a real database, with a clock that the story moves, and the
//! actors that stories are told with.

use std::collections::HashMap;
use std::sync::Mutex;

use reauth_server::domain::sessions::sweep;
use reauth_server::domain::{Clock, Span, Time};
use reauth_server::{Child, Config, Server};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::postgres;

/// On which database a story is told.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Sqlite,
    Postgres,
}

/// Tells a story on both databases.
#[macro_export]
macro_rules! both {
    ($($story:ident),+ $(,)?) => {$(
        mod $story {
            use $crate::lab::{Kind, Lab};

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() {
                super::$story(Lab::new(Kind::Sqlite).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                super::$story(Lab::new(Kind::Postgres).await).await;
            }
        }
    )+};
}

/// A server with one app, of which we hold an admin token, and the operator's token.
pub struct Lab {
    server: Option<Server>,
    pub clock: Clock,
    pub config: Config,
    /// The child in which scripts run, from the next start on.
    pub child: Child,
    pub operator: String,
    pub app: String,
    pub admin: String,
    pub url: String,
    http: reqwest::Client,
    users: Mutex<HashMap<String, String>>,
    dir: tempfile::TempDir,
}

/// 2026-05-03 06:12 UTC, when all stories begin.
pub fn beginning() -> Time {
    Time::parse("2026-05-03T06:12:00Z").expect("a moment")
}

/// This test program, told to be the child in which a script runs.
pub fn child() -> Child {
    let args = ["tasks::sandbox_child", "--exact", "--ignored", "--nocapture", "--test-threads=1"];
    Child {
        program: std::env::current_exe().expect("the test program"),
        args: args.map(str::to_owned).to_vec(),
    }
}

impl Lab {
    pub async fn new(kind: Kind) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            data: dir.path().join("data"),
            ..Config::default()
        };
        // Stories' proxies are on this machine.
        config.requests.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
        if let Kind::Postgres = kind {
            config.database = Some(postgres::database());
        }
        let clock = Clock::manual(beginning());
        let made = reauth_server::init(&config, clock.clone()).await.expect("init");
        let server = Server::start(config.clone(), clock.clone(), child()).await.expect("start");
        let mut lab = Self {
            url: server.url(),
            server: Some(server),
            clock,
            config,
            child: child(),
            operator: made.operator_token,
            app: String::new(),
            admin: String::new(),
            http: reqwest::Client::builder().no_proxy().build().expect("a client"),
            users: Mutex::default(),
            dir,
        };
        lab.enter_app("shop").await;
        lab
    }

    /// From here on the story is about a new app.
    pub async fn enter_app(&mut self, name: &str) {
        let settings = json!({ "multiple_devices_per_user": true });
        let app = json!({ "name": name, "settings": settings });
        self.app = text(&self.operator_post("/admin/apps", app).await["id"]);
        self.admin = self.token(&["app:admin"]).await;
    }

    /// The server in this process.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("the server runs")
    }

    /// Where the embedded database is.
    pub fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// Stops the server and starts it again on the same tables.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.restart_after_stop().await;
    }

    /// Starts the server that was stopped.
    pub async fn restart_after_stop(&mut self) {
        let (config, clock) = (self.config.clone(), self.clock.clone());
        let server = Server::start(config, clock, self.child.clone()).await.expect("restart");
        self.url = server.url();
        self.server = Some(server);
    }

    pub async fn stop(&mut self) {
        self.server.take().expect("the server runs").stop().await;
    }

    /// Someone runs a statement on the database itself, past the server: the first on SQLite, the
    /// second on PostgreSQL.
    pub async fn behind_its_back(&self, [sqlite, postgres]: [&'static str; 2]) {
        use sqlx::{Connection as _, Executor as _};
        let done = if let Some(url) = &self.config.database {
            let mut conn = sqlx::PgConnection::connect(url).await.expect("a connection");
            conn.execute(sqlx::raw_sql(postgres)).await.map(|_| ())
        } else {
            let url = format!("sqlite://{}", self.data().join("reauth.sqlite").display());
            let mut conn = sqlx::SqliteConnection::connect(&url).await.expect("the file");
            conn.execute(sqlx::raw_sql(sqlite)).await.map(|_| ())
        };
        done.expect("the statement runs");
    }

    /// Time passes.
    pub fn pass(&self, span: Span) {
        self.clock.pass(span);
        self.server().app().schedule_wake.notify_one();
    }

    /// A token of the app with these scopes.
    pub async fn token(&self, scopes: &[&str]) -> String {
        let path = format!("/admin/apps/{}/tokens", self.app);
        let wanted = json!({ "name": "a program", "scopes": scopes });
        text(&self.operator_post(&path, wanted).await["token"])
    }

    pub async fn operator_post(&self, path: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.operator);
        good(request.json(&body)).await
    }

    /// A request to the app's API as its admin.
    pub fn api(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, &format!("/api/v4/{}{path}", self.app)).bearer_auth(&self.admin)
    }

    /// A request without a credential.
    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub async fn get(&self, path: &str) -> Value {
        good(self.api(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        good(self.api(Method::POST, path).json(&body)).await
    }

    /// As programs do it: `Content-Type: application/json` and no body; 204 is success.
    pub async fn act(&self, path: &str) {
        let request = self.api(Method::POST, path).header("content-type", "application/json");
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::NO_CONTENT, "{path}");
        assert_eq!(answer.headers().get("content-type"), None, "{path}");
        assert_eq!(answer.bytes().await.expect("a body").len(), 0, "{path}");
    }

    pub async fn set(&self, settings: Value) {
        let path = format!("/admin/apps/{}", self.app);
        let request = self.bare(Method::PATCH, &path).bearer_auth(&self.operator);
        good(request.json(&json!({ "settings": settings, "allow_endless": true }))).await;
    }

    pub async fn operator_get(&self, path: &str) -> Value {
        good(self.bare(Method::GET, path).bearer_auth(&self.operator)).await
    }

    /// One sweep, to its end, as the worker does it; answers how much it wrote.
    pub async fn sweep(&self) -> usize {
        let db = &self.server().app().db;
        let mut found = sweep::look(db).await.expect("it looks");
        let all = found.len();
        while !found.is_empty() {
            found.write(db).await.expect("it writes");
        }
        found.close(db).await.expect("it forgets");
        all
    }

    /// The id of the user with this name, who is created when first named.
    pub async fn user(&self, name: &str) -> String {
        let known = self.users.lock().expect("the users").get(name).cloned();
        if let Some(id) = known {
            return id;
        }
        let user = self.post("/objects/user", json!({ "user": { "name": name } })).await;
        let id = text(&user["id"]);
        self.users.lock().expect("the users").insert(name.to_owned(), id.clone());
        id
    }

    /// A one-use token with which a device can enrol for this user.
    pub async fn authentication_token(&self, name: &str) -> String {
        let path = format!("/users/{}/authentication-token", self.user(name).await);
        text(&self.post(&path, json!({})).await["token"])
    }

    pub fn enroll(&self, token: &str, device: &str) -> RequestBuilder {
        let wanted = json!({
            "authentication_token": token,
            "device": { "id": device },
            "label": format!("the {device}"),
            "container": { "version": "4.2", "bundle_id": "com.example.shop", "platform": "ios" },
            "runtime": { "version": "9.1" },
        });
        self.bare(Method::POST, &format!("/device/{}/enroll", self.app)).json(&wanted)
    }

    /// The user signs in on the device.
    pub async fn sign_in(&self, name: &str, device: &str) -> Device<'_> {
        let token = self.authentication_token(name).await;
        self.device(&good(self.enroll(&token, device)).await)
    }

    /// The device of an enrolment's answer.
    pub fn device(&self, enrolled: &Value) -> Device<'_> {
        Device {
            lab: self,
            user: text(&enrolled["user_id"]),
            session: text(&enrolled["session_id"]),
            token: text(&enrolled["session_token"]),
        }
    }

    /// The place of the ledger's last entry.
    pub async fn head(&self) -> i64 {
        let path = "/admin/ledger?limit=1";
        let answer = good(self.bare(Method::GET, path).bearer_auth(&self.operator)).await;
        answer["head"]["seq"].as_i64().expect("a place")
    }
}

/// A device that was signed in.
pub struct Device<'a> {
    lab: &'a Lab,
    pub user: String,
    pub session: String,
    pub token: String,
}

impl Device<'_> {
    pub fn path(&self) -> String {
        format!("/users/{}/sessions/{}", self.user, self.session)
    }

    /// The session as the API shows it.
    pub async fn view(&self) -> Value {
        self.lab.get(&self.path()).await
    }

    pub async fn check(&self) -> reqwest::Response {
        let request = self.lab.bare(Method::GET, "/check").bearer_auth(&self.token);
        request.send().await.expect("an answer")
    }

    pub async fn connect(&self) -> (StatusCode, Value) {
        let path = format!("/device/{}/connect", self.lab.app);
        json_of(self.lab.bare(Method::POST, &path).bearer_auth(&self.token)).await
    }

    pub async fn sign_out(&self) -> StatusCode {
        let path = format!("/device/{}/sign-out", self.lab.app);
        let request = self.lab.bare(Method::POST, &path).bearer_auth(&self.token);
        request.send().await.expect("an answer").status()
    }

    /// Check and API agree that it is signed in. Looking counts as no activity; checking does.
    pub async fn must_be_signed_in(&self) {
        assert_eq!(self.view().await["state"], "ENROLLED");
        assert_eq!(self.check().await.status(), StatusCode::OK);
    }

    /// Check, connect and API agree that it must sign in again, and why.
    pub async fn must_sign_in_again(&self, state: &str, because: &str) {
        let answer = self.check().await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert!(answer.headers().contains_key("www-authenticate"));
        let (status, body) = self.connect().await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!((&body["state"], &body["because"]), (&json!(state), &json!(because)), "{body}");
        assert_eq!(body["type"], "SIGN_IN_AGAIN");
        let view = self.view().await;
        assert_eq!((&view["state"], &view["ended_by"]), (&json!(state), &json!(because)), "{view}");
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text, not {value}")).to_owned()
}

/// The answer of a request, whatever its status; null when it has no body.
pub async fn json_of(request: RequestBuilder) -> (StatusCode, Value) {
    let answer = request.send().await.expect("an answer");
    let (status, body) = (answer.status(), answer.bytes().await.expect("a body"));
    let value = if body.is_empty() { Value::Null } else { parse(&body) };
    (status, value)
}

fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into())
}

/// The answer of a request that must succeed.
pub async fn good(request: RequestBuilder) -> Value {
    let (status, body) = json_of(request).await;
    assert!(status.is_success(), "{status}: {body}");
    body
}

/// The request must be refused with this status and type; answers the body.
pub async fn refused(request: RequestBuilder, status: u16, kind: &str) -> Value {
    let (found, body) = json_of(request).await;
    assert_eq!((found.as_u16(), &body["type"]), (status, &json!(kind)), "{body}");
    for part in ["title", "detail", "see"] {
        assert!(body[part].as_str().is_some_and(|text| !text.is_empty()), "{part}: {body}");
    }
    body
}
