//! The world of a task's test: a throw-away server whose clock stands still until the test moves
//! it, and an HTTP peer that the test plays. A test asks for it at `http://reauth.test`.

use std::collections::HashMap;
use std::sync::Arc;

use reauth_sdk::{Run, RunRequest};
use reauth_server::domain::{Clock, Span, Time};
use reauth_server::sandbox::{Host, Request, Response};
use reauth_server::{Config, Peer, PeerRequest, PeerResponse, Server};
use serde_json::{Map, Value, json};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::files::LocalTask;
use crate::verbs::serve::child;

/// When every test begins: a Monday morning in UTC.
const BEGINNING: &str = "2026-01-05T09:00:00Z";

/// What a test can ask for.
pub(super) struct Lab {
    tasks: Vec<LocalTask>,
    /// The task that stands beside the test.
    subject: String,
    world: Mutex<Option<Arc<World>>>,
    told: mpsc::UnboundedSender<Value>,
}

/// One server, for one test.
struct World {
    server: Server,
    clock: Clock,
    operator: String,
    app: String,
    /// Where tasks fetch from and the test answers.
    peer: Peer,
    waiting: Mutex<Waiting>,
    _folder: tempfile::TempDir,
}

/// What the peer was asked and the test has not answered yet, with how many there were.
type Waiting = (u64, HashMap<u64, oneshot::Sender<PeerResponse>>);

impl Lab {
    pub(super) fn new(
        tasks: Vec<LocalTask>,
        subject: String,
        told: mpsc::UnboundedSender<Value>,
    ) -> Self {
        Self { tasks, subject, world: Mutex::new(None), told }
    }

    /// Ends the world of the last test.
    pub(super) async fn end(&self) {
        let world = self.world.lock().await.take();
        if let Some(world) = world.and_then(Arc::into_inner) {
            world.server.stop().await;
        }
    }

    async fn ask(&self, path: &str, said: &Value) -> Result<Value, String> {
        match path {
            "/begin" => {
                self.end().await;
                let world = World::new(&self.tasks, &self.subject).await?;
                *self.world.lock().await = Some(Arc::new(world));
                return Ok(json!({}));
            }
            "/told" => {
                // Nobody listens any more when the program ends.
                let _ = self.told.send(said.clone());
                return Ok(json!({}));
            }
            _ => {}
        }
        // A request that waits, for the peer or for a run, keeps no other from the world.
        let world = self.world.lock().await.clone().ok_or("the test has not begun")?;
        match path {
            "/clock" => {}
            "/clock/pass" => {
                let span = text(said, "span");
                let span: Span = span.parse().map_err(|_| {
                    format!("clock.pass: {span:?} is no span; write \"31d\", \"12h\" or \"45s\"")
                })?;
                world.clock.pass(span);
            }
            "/clock/set" => {
                let at = text(said, "at");
                let at = Time::parse(at).ok_or(format!("clock.set: {at:?} is no moment"))?;
                world.clock.set(at);
            }
            "/settings" => world.set(said).await?,
            "/deploy" => self.deploy(&world, said).await?,
            "/sign-in" => return world.sign_in(said).await,
            "/device/check" | "/device/connect" | "/device/sign-out" => {
                return world.device(path, text(said, "token")).await;
            }
            "/run" => return self.run(&world, said).await,
            "/web" => return world.web(&self.subject, said).await,
            "/tick" => world.server.settle().await?,
            "/api" => {
                let (status, body) =
                    world.api(text(said, "method"), text(said, "path"), &said["body"]).await?;
                return Ok(json!({ "status": status, "body": body }));
            }
            "/ledger" => return world.ledger().await,
            "/http" => return Ok(json!({ "url": world.peer.url() })),
            "/http/next" => return Ok(world.next_request().await),
            "/http/answer" => world.answer(said).await,
            _ => return Err(format!("a test cannot ask for {path}")),
        }
        Ok(json!({ "now": world.clock.now().to_string() }))
    }

    /// Puts the task anew, with these variables.
    async fn deploy(&self, world: &World, said: &Value) -> Result<(), String> {
        world.put(self.task()?, said["env"].as_object(), false).await
    }

    fn task(&self) -> Result<&LocalTask, String> {
        let found = self.tasks.iter().find(|task| task.name == self.subject);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.tasks.iter().map(|task| task.name.as_str()).collect();
            format!(
                "there is no task {} beside this test: begin the test's name with that of its \
                 task ({})",
                self.subject,
                names.join(", ")
            )
        })
    }

    /// Runs the task in the world as it is. What it and those that it started changed is with the
    /// run, also if it was done.
    pub(super) async fn run_once(&self, wanted: &RunRequest) -> Result<Run, String> {
        let world = self.world.lock().await.clone().ok_or("there is no world")?;
        let wrong = |error: serde_json::Error| error.to_string();
        let said = serde_json::to_value(wanted).map_err(wrong)?;
        let mut run = self.carried_out(&world, &said).await?;
        if !wanted.dry_run {
            let mut ledger = world.ledger().await?;
            let entries = ledger["entries"].as_array_mut().map(std::mem::take);
            let by_tasks = |entry: &Value| entry["by"]["kind"] == "task";
            run["changes"] = entries.into_iter().flatten().filter(by_tasks).collect();
        }
        serde_json::from_value(run).map_err(wrong)
    }

    /// Runs the task, with what it queues for now, and answers the run. Its schedule is for `tick`.
    async fn carried_out(&self, world: &World, wanted: &Value) -> Result<Value, String> {
        let path = format!("/tasks/{}/run", self.subject);
        let run = world.good("POST", &path, wanted).await?;
        world.server.run_queued().await?;
        world.good("GET", &format!("/runs/{}", text(&run, "id")), &Value::Null).await
    }

    /// As a test wants it, and what a test is told of it.
    async fn run(&self, world: &World, said: &Value) -> Result<Value, String> {
        self.task()?;
        if said["env"].is_object() {
            self.deploy(world, said).await?;
        }
        let wanted = json!({ "params": said["params"], "dry_run": said["dryRun"] == true });
        let run = self.carried_out(world, &wanted).await?;
        Ok(json!({ "state": run["state"], "result": run["result"], "error": run["error"],
            "log": run["log"], "changes": run["changes"].as_array().cloned().unwrap_or_default() }))
    }
}

impl Host for Lab {
    async fn fetch(&self, request: Request) -> Result<Response, String> {
        let path = request.url.strip_prefix("http://reauth.test");
        let path = path.ok_or("a test reaches its lab only: fetch is for tasks")?;
        let said: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let (status, body) = match self.ask(path, &said).await {
            Ok(body) => (200, body),
            Err(why) => (400, json!({ "error": why })),
        };
        Ok(Response {
            status,
            status_text: String::new(),
            url: request.url,
            headers: vec![("content-type".into(), "application/json".into())],
            body: body.to_string().into_bytes(),
        })
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

impl World {
    async fn new(tasks: &[LocalTask], subject: &str) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let peer = Peer::open().await.map_err(|error| error.to_string())?;
        let mut config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            data: folder.path().join("data"),
            ..Config::default()
        };
        config.tasks.fetch_allowed = vec![peer.url().to_owned()];
        let beginning = Time::parse(BEGINNING).ok_or("no beginning")?;
        let clock = Clock::manual(beginning);
        let made = reauth_server::init(&config, clock.clone()).await?;
        let server = Server::start_still(config, clock.clone(), child()?).await?;
        let mut world = Self {
            server,
            clock,
            operator: made.operator_token,
            app: String::new(),
            peer,
            waiting: Mutex::default(),
            _folder: folder,
        };
        let schema = json!({ "name": "text", "email": "text", "department": "text",
            "employee_number": "text", "contract_end": "date", "active": "boolean" });
        // Long, so that what ends a session in a test is the task.
        let settings = json!({ "multiple_devices_per_user": true, "user_schema": schema,
            "max_session_age": "365d" });
        let app = json!({ "name": "Test", "settings": settings });
        let (status, app) = world.ask("POST", "/admin/apps", &app).await?;
        if status != 201 {
            return Err(format!("the app was not made: {app}"));
        }
        world.app = text(&app, "id").to_owned();
        for task in tasks {
            world.put(task, None, task.name != subject).await?;
        }
        Ok(world)
    }

    /// Puts a task; one that rests is there to be called, and starts by nothing else.
    async fn put(
        &self,
        task: &LocalTask,
        env: Option<&Map<String, Value>>,
        rests: bool,
    ) -> Result<(), String> {
        let new = task.new_task().map_err(|failure| failure.to_string())?;
        let new = serde_json::to_value(new);
        let mut new = new.map_err(|error| error.to_string())?;
        if let Some(env) = env {
            new["env"] = Value::Object(env.clone());
        }
        if rests {
            for what in ["schedule", "on", "where", "web"] {
                new[what] = Value::Null;
            }
        }
        self.good("PUT", &format!("/tasks/{}", task.name), &new).await.map(|_| ())
    }

    /// Changes the app's settings.
    async fn set(&self, settings: &Value) -> Result<(), String> {
        let path = format!("/admin/apps/{}", self.app);
        let wanted = json!({ "settings": settings, "allow_endless": true });
        let (status, body) = self.ask("PATCH", &path, &wanted).await?;
        if status < 300 { Ok(()) } else { Err(format!("lab.settings: {}", body["detail"])) }
    }

    async fn sign_in(&self, said: &Value) -> Result<Value, String> {
        let path = format!("/users/{}/authentication-token", text(said, "user"));
        let token = self.good("POST", &path, &json!({})).await?;
        let mut wanted = json!({
            "authentication_token": token["token"],
            "device": { "id": said["device"] },
            "container": { "platform": said["platform"].as_str().unwrap_or("ios") },
        });
        if let Some(label) = said["label"].as_str() {
            wanted["label"] = label.into();
        }
        let path = format!("/device/{}/enroll", self.app);
        let (status, made) = self.ask("POST", &path, &wanted).await?;
        if status >= 300 {
            return Err(format!("signIn: {}", made["detail"]));
        }
        Ok(json!({ "session": made["session_id"], "token": made["session_token"] }))
    }

    async fn device(&self, path: &str, token: &str) -> Result<Value, String> {
        let verb = path.strip_prefix("/device/").unwrap_or(path);
        if verb == "check" {
            let (status, _) =
                self.send("GET", "/check", &Value::Null, &[], Some(token)).await?.short();
            if status < 300 {
                return Ok(json!({ "status": status, "because": null }));
            }
        }
        // A check says no more than yes or no; a connect says why.
        let verb = if verb == "check" { "connect" } else { verb };
        let path = format!("/device/{}/{verb}", self.app);
        let (status, body) =
            self.send("POST", &path, &Value::Null, &[], Some(token)).await?.short();
        Ok(json!({ "status": status, "because": body["because"] }))
    }

    /// A request to the web task that stands beside the test.
    async fn web(&self, subject: &str, said: &Value) -> Result<Value, String> {
        let path = said["path"].as_str().unwrap_or_default();
        let path = format!("/tasks/{}/{subject}{path}", self.app);
        let headers = said["headers"].as_object().cloned().unwrap_or_default();
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
            .collect();
        let method = said["method"].as_str().unwrap_or("GET");
        let answer = self.send(method, &path, &said["body"], &headers, None).await?;
        Ok(json!({ "status": answer.status, "headers": answer.headers, "body": answer.body }))
    }

    /// Waits for the next request to the peer.
    async fn next_request(&self) -> Value {
        let Some(request) = self.peer.next().await else { return json!({ "done": true }) };
        let PeerRequest { method, path, headers, body, answer } = request;
        let headers: Map<String, Value> =
            headers.into_iter().map(|(name, value)| (name, value.into())).collect();
        let mut waiting = self.waiting.lock().await;
        waiting.0 += 1;
        let id = waiting.0;
        waiting.1.insert(id, answer);
        json!({ "id": id, "method": method, "path": path, "headers": headers, "body": body })
    }

    /// Hands the test's answer to whoever asked the peer.
    async fn answer(&self, said: &Value) {
        let waiting = said["id"].as_u64();
        let waiting = match waiting {
            Some(id) => self.waiting.lock().await.1.remove(&id),
            None => None,
        };
        let headers = said["headers"].as_object().into_iter().flatten();
        let reply = PeerResponse {
            status: said["status"].as_u64().and_then(|it| u16::try_from(it).ok()).unwrap_or(502),
            headers: headers
                .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                .collect(),
            body: text(said, "body").to_owned(),
        };
        // Whoever asked may have given up meanwhile.
        let _ = waiting.map(|waiting| waiting.send(reply));
    }

    async fn ledger(&self) -> Result<Value, String> {
        let mut entries = Vec::new();
        let mut after = 0;
        loop {
            let path = format!("/ledger?after={after}&limit=1000");
            let page = self.good("GET", &path, &Value::Null).await?;
            for one in page["entries"].as_array().into_iter().flatten() {
                let body: Value = match &one["body"] {
                    Value::String(body) => serde_json::from_str(body).unwrap_or_default(),
                    body => body.clone(),
                };
                after = body["seq"].as_i64().unwrap_or(i64::MAX);
                entries.push(json!({ "seq": after, "kind": body["change"]["kind"],
                    "user": body["user"], "by": body["by"], "change": body["change"] }));
            }
            if page["more"] != true {
                return Ok(json!({ "entries": entries }));
            }
        }
    }

    /// A request to the app's API that must succeed.
    async fn good(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let (status, body) = self.api(method, path, body).await?;
        if status < 300 { Ok(body) } else { Err(format!("{method} {path}: {}", detail(&body))) }
    }

    async fn api(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value), String> {
        self.ask(method, &format!("/api/v4/{}{path}", self.app), body).await
    }

    /// A request as the operator.
    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value), String> {
        Ok(self.send(method, path, body, &[], Some(&self.operator)).await?.short())
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
        token: Option<&str>,
    ) -> Result<Heard, String> {
        let method = method.parse().map_err(|_| format!("{method} is no method"))?;
        let url = format!("{}{path}", self.server.url());
        let mut request = self.server.app().client.request(method, url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request = match body {
            Value::Null => request,
            Value::String(text) => request.body(text.clone()),
            body => request.json(body),
        };
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let headers = answer.headers().iter().map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned().into())
        });
        let headers = headers.collect();
        let bytes = answer.bytes().await.map_err(|error| error.to_string())?;
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        Ok(Heard { status, headers, body })
    }
}

/// An answer.
struct Heard {
    status: u16,
    headers: Map<String, Value>,
    body: Value,
}

impl Heard {
    fn short(self) -> (u16, Value) {
        (self.status, self.body)
    }
}

fn detail(body: &Value) -> String {
    body["detail"].as_str().map_or_else(|| body.to_string(), str::to_owned)
}
