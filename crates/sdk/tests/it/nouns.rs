//! Each noun asks for what the API has: method, address and body.

use reauth_sdk::{
    AppChange, Filter, NewApp, NewTask, NewToken, Revocation, RunRequest, TokenRequest, Wanted,
};
use serde_json::{Map, Value, json as value};

use crate::peer::{APP, Peer, full, json};

const USER: &str = r#"{"id":"u","last_connected_at":null,"enrolled":false,"locked":false,
    "sessions":[]}"#;
const TASK: &str = r#"{"name":"tidy","file":"tidy.ts","scopes":["users:read"],"schedule":null,
    "params":{},"single_instance":false,"created_at":"2026-05-01T08:00:00Z",
    "updated_at":"2026-05-01T08:00:00Z","next_at":null}"#;
const RUN: &str = r#"{"id":"r","task":"tidy","trigger":"hand","state":"succeeded","attempt":1,
    "due_at":"2026-05-01T08:00:00Z","started_at":null,"finished_at":null,"took_ms":2,
    "params":{},"result":{"ended":2},"error":null}"#;
const APP_JSON: &str = r#"{"id":"a","name":"Field","created_at":"2026-05-01T08:00:00Z","settings":
    {"max_session_age":"30d","max_idle":null,"multiple_devices_per_user":true}}"#;
const CUT_OFF: &str = r#"{"seq":9,"not_before":"2026-05-01T08:00:00Z"}"#;

fn page(objects: &str, more: bool) -> String {
    let count = usize::from(!objects.is_empty());
    let body = format!(r#"{{"total":2,"count":{count},"more":{more},"objects":[{objects}]}}"#);
    json(200, &body)
}

#[tokio::test]
async fn a_list_is_read_to_its_end() {
    let peer = Peer::new(vec![page(USER, true), page(USER, false)]).await;
    let users = peer.app().users().limit(1).all().await.unwrap();
    assert_eq!(users.len(), 2);
    let base = format!("GET /api/v4/{APP}/users");
    assert_eq!(peer.lines(), [0, 1].map(|skip| format!("{base}?limit=1&skip={skip}")));
}

#[tokio::test]
async fn an_empty_page_ends_a_list_whatever_it_says() {
    let peer = Peer::new(vec![page("", true), page("", true)]).await;
    assert!(peer.app().users().all().await.unwrap().is_empty());
    assert_eq!(peer.lines().len(), 1);
}

#[tokio::test]
async fn users_and_sessions_are_changed_with_and_without_a_reason() {
    let peer = Peer::new(vec![full(204, "", ""); 4]).await;
    let app = peer.app();
    app.lock("u", Some("left")).await.unwrap();
    app.unlock("u", None).await.unwrap();
    app.re_authenticate("u", "s", None).await.unwrap();
    app.wipe("u", "s", Some("stolen")).await.unwrap();
    let base = format!("POST /api/v4/{APP}/users/u");
    let wanted = ["lock", "unlock", "sessions/s/re-authenticate", "sessions/s/wipe"];
    assert_eq!(peer.lines(), wanted.map(|rest| format!("{base}/{rest}")));
    let bodies: Vec<String> = peer.asked().into_iter().map(|asked| asked.body).collect();
    assert_eq!(bodies, [r#"{"reason":"left"}"#, "", "", r#"{"reason":"stolen"}"#]);
}

#[tokio::test]
async fn a_user_is_created_and_gets_an_authentication_token() {
    let object = r#"{"id":"u","type":"user","updated_at":"2026-05-01T08:00:00Z",
        "display":"Ann","name":"Ann"}"#;
    let token = r#"{"token":"ree_once","url":"/","expires_at":"2026-05-01T08:00:00Z"}"#;
    let answers = vec![json(201, object), json(200, token), json(200, token)];
    let peer = Peer::new(answers).await;
    let attributes = Map::from_iter([("name".to_owned(), Value::from("Ann"))]);
    let user = peer.app().create_user(&attributes).await.unwrap();
    assert_eq!(user.attributes["name"], "Ann");
    let token = peer.app().authentication_token("u", &TokenRequest::default()).await.unwrap();
    assert!(!format!("{token:?}").contains("ree_once"));
    let hour = TokenRequest {
        expires_in: Some("1h".parse().unwrap()),
        methods: vec!["pwd".into(), "otp".into()],
        assurance: Some("aal2".into()),
    };
    peer.app().authentication_token("u", &hour).await.unwrap();
    let asked = peer.asked();
    assert_eq!(asked[0].line, format!("POST /api/v4/{APP}/objects/user.json"));
    assert_eq!(asked[0].body, r#"{"user":{"name":"Ann"}}"#);
    assert_eq!(asked[1].body, "{}");
    let wanted = r#"{"expires_in":"1h","methods":["pwd","otp"],"assurance":"aal2"}"#;
    assert_eq!(asked[2].body, wanted);
}

#[tokio::test]
async fn apps_and_tokens_are_administered() {
    let token = r#"{"id":"t","name":"backend","scopes":["users:read"],
        "created_at":"2026-05-01T08:00:00Z","expires_at":null,"last_used_at":null,
        "revoked_at":null,"token":"rea_secret"}"#;
    let answers =
        vec![json(201, APP_JSON), json(200, APP_JSON), json(201, token), full(204, "", "")];
    let peer = Peer::new(answers).await;
    let new = NewApp { name: "Field".into(), ..NewApp::default() };
    peer.client().create_app(&new).await.unwrap();
    let change = AppChange { name: Some("Fields".into()), ..AppChange::default() };
    peer.app().change(&change).await.unwrap();
    let scopes = vec!["users:read".to_owned()];
    let new = NewToken { name: "backend".into(), scopes, expires_in: Some("90d".parse().unwrap()) };
    let created = peer.app().create_token(&new).await.unwrap();
    assert_eq!((created.token.as_str(), created.about.id.as_str()), ("rea_secret", "t"));
    assert!(!format!("{created:?}").contains("rea_secret"));
    peer.app().revoke_token("t").await.unwrap();
    let asked = peer.asked();
    assert_eq!(asked[0].line, "POST /admin/apps");
    assert_eq!(asked[0].body, r#"{"name":"Field"}"#);
    assert_eq!(asked[1].line, format!("PATCH /admin/apps/{APP}"));
    assert_eq!(asked[1].body, r#"{"name":"Fields"}"#);
    let body = r#"{"name":"backend","scopes":["users:read"],"expires_in":"90d"}"#;
    assert_eq!(asked[2].body, body);
    assert_eq!(asked[3].line, format!("DELETE /admin/apps/{APP}/tokens/t"));
}

#[tokio::test]
async fn many_sessions_end_with_one_request() {
    let peer = Peer::new(vec![json(200, CUT_OFF); 3]).await;
    assert_eq!(peer.client().revoke_everyone(Some("leak")).await.unwrap().seq, 9);
    let everyone = Revocation::default();
    peer.app().revoke(&everyone).await.unwrap();
    let filter = Filter { group: Some("a b".into()), ..Filter::default() };
    let (reason, expect) = (Some("left".to_owned()), Some(("seen".to_owned(), 5)));
    let group = Revocation { filter, wipe: true, reason, expect };
    peer.app().revoke(&group).await.unwrap();
    let asked = peer.asked();
    assert_eq!(asked[0].line, "POST /admin/revocations");
    assert_eq!(asked[0].body, r#"{"reason":"leak"}"#);
    assert_eq!(asked[1].line, format!("POST /api/v4/{APP}/revocations"));
    let bodies = [&asked[1].body, &asked[2].body]
        .map(|body| -> Value { serde_json::from_str(body).unwrap() });
    assert_eq!(bodies[0], value!({"filter": {}, "action": "re-authenticate", "dry_run": false}));
    let filter = value!({"group": "a b"});
    let wanted = value!({"filter": filter, "action": "wipe", "reason": "left", "dry_run": false,
        "expect": {"preview_id": "seen", "tolerance_percent": 5}});
    assert_eq!(bodies[1], wanted);
}

#[tokio::test]
async fn the_ledger_is_read_and_verified() {
    let entries = r#"{"entries":[{"seq":7,"at":"2026-05-01T08:00:00Z","app":null,"user":null,
        "kind":"store.created","by":{"kind":"system"},"why":null,"change":{},"body":"{}",
        "hash":"00"}],"more":false,"head":{"seq":7,"hash":"00"}}"#;
    let verified = r#"{"ok":false,"checked":6,"through":6,"more":false,
        "head":{"seq":7,"hash":"00"},"problem":{"seq":7,"why":"the entry was edited"}}"#;
    let answers = vec![json(200, entries), json(200, entries), json(200, verified)];
    let peer = Peer::new(answers).await;
    let wanted = Wanted {
        after: 6,
        limit: Some(5),
        app: Some("a".into()),
        user: Some("u".into()),
        since: Some("2026-05-01".parse().unwrap()),
    };
    assert_eq!(peer.client().ledger(&wanted).await.unwrap().entries[0].by.kind, "system");
    peer.app().ledger(&wanted).await.unwrap();
    let verified = peer.client().verify_ledger(0, 50_000).await.unwrap();
    assert_eq!(verified.problem.unwrap().seq, 7);
    let query = "after=6&limit=5&user=u&since=2026-05-01T00%3A00%3A00Z";
    let lines = [
        format!("GET /admin/ledger?{query}&app=a"),
        format!("GET /api/v4/{APP}/ledger?{query}"),
        "GET /admin/ledger/verify?after=0&limit=50000".to_owned(),
    ];
    assert_eq!(peer.lines(), lines);
}

#[tokio::test]
async fn tasks_are_put_run_and_read() {
    let runs = format!(r#"{{"total":1,"count":1,"more":false,"objects":[{RUN}]}}"#);
    let answers = vec![json(201, TASK), json(202, RUN), json(200, RUN), json(200, &runs)];
    let peer = Peer::new(answers).await;
    let app = peer.app();
    let task = NewTask { file: "tidy.ts".into(), source: "x".into(), ..NewTask::default() };
    app.put_task("tidy", &task).await.unwrap();
    app.run_task("tidy", &RunRequest::default()).await.unwrap();
    let wanted = RunRequest { params: Some(value!({"days": 3})), dry_run: true };
    app.run_task_and_wait("tidy", &wanted).await.unwrap();
    assert_eq!(app.task_runs("tidy", 1).await.unwrap().objects[0].result["ended"], 2);
    let asked = peer.asked();
    assert_eq!(asked[0].line, format!("PUT /api/v4/{APP}/tasks/tidy"));
    let body: Value = serde_json::from_str(&asked[0].body).unwrap();
    assert_eq!(body, value!({"file": "tidy.ts", "source": "x"}));
    assert!(asked[1].line.ends_with("/tidy/run"), "{}", asked[1].line);
    assert_eq!(asked[1].body, r#"{"dry_run":false}"#);
    assert!(asked[2].line.ends_with("/tidy/run?wait=true"), "{}", asked[2].line);
    assert_eq!(asked[2].body, r#"{"params":{"days":3},"dry_run":true}"#);
    assert!(asked[3].line.ends_with("/tasks/tidy/runs?limit=1"), "{}", asked[3].line);
}

#[tokio::test]
async fn groups_and_the_doctor_are_asked() {
    let groups = r#"{"total":1,"count":1,"more":false,
        "objects":[{"name":"a","members":2,"not_before":null}]}"#;
    let doctor = r#"{"ok":true,"findings":[{"level":"ok","check":"database","detail":"fine"}]}"#;
    let nothing = full(204, "", "");
    let answers = vec![json(200, groups), nothing.clone(), nothing, json(200, doctor)];
    let peer = Peer::new(answers).await;
    assert_eq!(peer.app().groups().all().await.unwrap()[0].members, 2);
    peer.app().add_member("a/b", "u").await.unwrap();
    peer.app().remove_member("a", "u").await.unwrap();
    assert!(peer.client().diagnose().await.unwrap().ok);
    let base = format!("/api/v4/{APP}/groups");
    let lines = [
        format!("GET {base}?limit=1000&skip=0"),
        format!("PUT {base}/a%2Fb/members/u"),
        format!("DELETE {base}/a/members/u"),
        "GET /admin/doctor".to_owned(),
    ];
    assert_eq!(peer.lines(), lines);
}
