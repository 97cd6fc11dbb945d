//! Web tasks and the identity hook: who may, what is asked, what is answered.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reauth_sandbox::{Job, Outcome, Part};
use serde_json::{Value, json};

use super::{World, job, limits, sandbox};

/// How a call becomes a job: the one place here that knows the shape of both.
fn job_of(source: &str, call: Value) -> Job {
    let call = serde_json::from_value(call).expect("a call");
    Job { call, ..job("task.js", source, Value::Null) }
}

async fn outcome(source: &str, call: Value) -> Outcome {
    let job = job_of(source, call);
    sandbox("sandbox_child").run(&job, &limits(), &World::default()).await.outcome
}

/// A request to a web task, as the server hands it on.
struct Asked {
    method: &'static str,
    content_type: &'static str,
    query: Value,
    body: &'static str,
}

const GET: Asked = Asked { method: "GET", content_type: "", query: Value::Null, body: "" };

impl Asked {
    fn json(body: &'static str) -> Self {
        Self { method: "POST", content_type: "application/json; charset=utf-8", body, ..GET }
    }

    fn call(&self) -> Value {
        let query = if self.query.is_null() { json!({}) } else { self.query.clone() };
        let mut headers = vec![json!(["Authorization", "Bearer yes"])];
        if !self.content_type.is_empty() {
            headers.push(json!(["Content-Type", self.content_type]));
        }
        json!({ "web": { "params": {}, "request": { "method": self.method,
            "url": "http://reauth.test/tasks/x/task", "path": "/tasks/x/task", "headers": headers,
            "query": query, "body": BASE64_STANDARD.encode(self.body) } } })
    }

    /// Status, headers by name, and the body as text.
    async fn of(&self, source: &str) -> (u64, Value, String) {
        let answer = match outcome(source, self.call()).await {
            Outcome::Done(json) => json.read::<Value>().expect("a value"),
            other => panic!("{other:?}: {source}"),
        };
        let pairs = answer["headers"].as_array().expect("headers").iter();
        let named = pairs.map(|pair| (pair[0].as_str().expect("a name").into(), pair[1].clone()));
        let body = BASE64_STANDARD.decode(answer["body"].as_str().expect("a body"));
        let body = String::from_utf8(body.expect("base64")).expect("text");
        (answer["status"].as_u64().expect("a status"), Value::Object(named.collect()), body)
    }

    async fn must_throw(&self, source: &str, wanted: &str) {
        let outcome = outcome(source, self.call()).await;
        let Outcome::Threw { message, .. } = &outcome else { panic!("{outcome:?}: {source}") };
        assert!(message.contains(wanted), "{message}: {source}");
    }
}

const OPEN: &str = "export const authenticate = ({ access }) => access.authorized();";

fn open(rest: &str) -> String {
    format!("{OPEN}\n{rest}")
}

#[tokio::test]
async fn a_web_task_lets_in_whom_it_knows() {
    let source = "
        export async function authenticate({ request, access, params }) {
            const match = /^Bearer (\\w+)$/.exec(request.header('authorization'));
            if (!match || params.who === 'nobody') return access.unauthorized();
            if (params.who === 'foe') return access.unauthorized({ status: 403, body: 'Go away' });
            return access.authorized({ who: match[1] });
        }
        export async function get({ params, request, response, authContext }) {
            response.headers.set('x-run', this.run.id);
            return { params, authContext, accept: request.headers.get('accept'),
                     method: request.method, path: request.path };
        }";
    let asked = |who: &str| Asked { query: json!({ "who": who }), ..GET };
    let (status, headers, body) = asked("ann").of(source).await;
    assert_eq!((status, &headers["content-type"]), (200, &json!("application/json")));
    assert!(headers["x-run"].is_string(), "{headers}");
    let wanted = json!({ "params": { "who": "ann" }, "authContext": { "who": "yes" },
        "accept": null, "method": "GET", "path": "/tasks/x/task" });
    assert_eq!(serde_json::from_str::<Value>(&body).expect("JSON"), wanted);
    let (status, _, body) = asked("nobody").of(source).await;
    assert_eq!((status, body.as_str()), (401, "{\"error\":\"unauthorized\"}"));
    let (status, headers, body) = asked("foe").of(source).await;
    assert_eq!((status, body.as_str()), (403, "Go away"));
    assert_eq!(headers, json!({ "content-type": "text/plain; charset=utf-8" }));
    let post = Asked { method: "POST", ..asked("ann") };
    let (status, headers, _) = post.of(source).await;
    assert_eq!((status, &headers["allow"]), (405, &json!("GET")));
}

#[tokio::test]
async fn nothing_but_access_lets_anybody_in() {
    let wanted = "the web task does not export a function named authenticate";
    GET.must_throw("export function get() { return 1 }", wanted).await;
    let wanted = "authenticate must return access.authorized() or access.unauthorized()";
    for value in ["true", "undefined", "{ isAuthorized: true }", "{ ...access.authorized() }"] {
        let source = format!(
            "export function authenticate({{ access }}) {{ return {value} }}
             export function get() {{ return 'secret' }}"
        );
        GET.must_throw(&source, wanted).await;
    }
    let source = "export function authenticate() { throw new Error('no key') }
        export function get() { return 'secret' }";
    GET.must_throw(source, "no key").await;
}

#[tokio::test]
async fn what_a_handler_returns_is_the_answer() {
    for (code, status, content_type, body) in [
        ("return [1, { a: null }]", 200, "application/json", "[1,{\"a\":null}]"),
        ("return false", 200, "application/json", "false"),
        ("return 'grüße'", 200, "text/plain; charset=utf-8", "grüße"),
        ("return", 200, "", ""),
        ("response.status = 204; return null", 204, "", ""),
        ("response.status = 201; response.body = { a: 1 }", 201, "application/json", "{\"a\":1}"),
        (
            "response.headers.set('content-type', 'text/html'); return '<p>'",
            200,
            "text/html; charset=utf-8",
            "<p>",
        ),
        (
            "response.headers = { 'Content-Type': 'application/json' }; return '[1]'",
            200,
            "application/json",
            "[1]",
        ),
        ("return Response.json({ a: 1 }, { status: 418 })", 418, "application/json", "{\"a\":1}"),
        ("return new Response(null, { status: 304 })", 304, "", ""),
    ] {
        let source = open(&format!("export function get({{ response }}) {{ {code} }}"));
        let (was, headers, text) = GET.of(&source).await;
        let kind = headers["content-type"].as_str().unwrap_or_default();
        assert_eq!((was, kind, text.as_str()), (status, content_type, body), "{code}");
    }
    for (code, wanted) in [
        ("return new Uint8Array(3)", "no form in JSON"),
        ("return new Response(new Uint8Array(3))", "not with bytes"),
        ("response.headers.set('content-type', 'image/png'); return 'x'", "not with image/png"),
        ("response.headers.set('content-type', 'text/html'); return {}", "takes a text"),
        ("response.status = 7; return 1", "from 200 to 599"),
        ("return 10n", "TypeError"),
    ] {
        let source = open(&format!("export function get({{ response }}) {{ {code} }}"));
        GET.must_throw(&source, wanted).await;
    }
}

#[tokio::test]
async fn a_body_is_read_as_what_it_says_it_is() {
    let source = open(
        "async function show({ params, request }) {
            return [params, request.body, await request.text()];
        }
        export { show as post, show as delete };",
    );
    let body = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let query = json!({ "a": "1", "b": "2" });
    let (_, _, text) = Asked { query, ..Asked::json("{\"b\":3}") }.of(&source).await;
    assert_eq!(body(&text), json!([{ "a": "1", "b": 3 }, { "b": 3 }, "{\"b\":3}"]));
    let (_, _, text) = Asked::json("").of(&source).await;
    assert_eq!(body(&text), json!([{}, null, ""]), "an empty body is no error");
    let (_, _, text) = Asked { method: "DELETE", ..Asked::json("[1]") }.of(&source).await;
    assert_eq!(body(&text), json!([{}, [1], "[1]"]));
    let plain = Asked { content_type: "text/plain", ..Asked::json("{\"b\":3}") };
    let (_, _, text) = plain.of(&source).await;
    assert_eq!(body(&text), json!([{}, "{\"b\":3}", "{\"b\":3}"]));
    let (status, _, text) = Asked::json("{").of(&source).await;
    assert_eq!((status, text.as_str()), (400, "{\"error\":\"the body is no JSON\"}"));
}

#[tokio::test]
async fn a_body_that_is_nested_too_deeply_is_the_callers_fault() {
    let source = open("export const post = ({ params }) => params");
    for text in ["[".repeat(200_000), "[".repeat(200_000) + &"]".repeat(200_000)] {
        let (status, _, text) = Asked::json(text.leak()).of(&source).await;
        assert_eq!((status, text.as_str()), (400, "{\"error\":\"the body is no JSON\"}"));
    }
    // A task that throws is at fault itself, whatever it throws.
    let source = open("export const post = () => JSON.parse('['.repeat(200_000))");
    Asked::json("{}").must_throw(&source, "call stack").await;
}

#[tokio::test]
async fn a_signed_webhook_is_verified() {
    // RFC 4231, case 2.
    let source = "
        export async function authenticate({ request, access }) {
            const usages = ['verify'], algorithm = { name: 'HMAC', hash: 'SHA-256' };
            const secret = new TextEncoder().encode('Jefe');
            const key = await crypto.subtle.importKey('raw', secret, algorithm, false, usages);
            const hex = '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843';
            const signature = Uint8Array.from(hex.match(/../g), (pair) => parseInt(pair, 16));
            const body = await request.bytes();
            const isRight = await crypto.subtle.verify('HMAC', key, signature, body);
            return isRight ? access.authorized() : access.unauthorized();
        }
        export const post = () => 'right';";
    let signed =
        Asked { content_type: "text/plain", ..Asked::json("what do ya want for nothing?") };
    assert_eq!(signed.of(source).await.0, 200);
    let forged = Asked { body: "what do you want for nothing?", ..signed };
    assert_eq!(forged.of(source).await.0, 401);
}

#[tokio::test]
async fn the_identity_hook_names_a_user_or_refuses() {
    let hook = |code: &str| {
        format!("export async function extractIdentity({{ claims, context }}) {{ {code} }}")
    };
    for (code, wanted) in [
        (
            "return context.authorized({ id: claims.sub, type: 'user' })",
            json!({ "authorized": true, "user": { "id": "u7", "type": "user" } }),
        ),
        (
            "return context.authorized(claims.sub)",
            json!({ "authorized": true, "user": { "id": "u7" } }),
        ),
        (
            "return context.unauthorized({ message: 'Ask Ann' })",
            json!({ "authorized": false, "message": "Ask Ann" }),
        ),
        (
            "return context.unauthorized()",
            json!({ "authorized": false, "message": "this identity has no access" }),
        ),
    ] {
        let call = json!({ "identity": { "claims": { "sub": "u7" } } });
        assert_eq!(outcome(&hook(code), call).await, Outcome::Done(wanted.into()), "{code}");
    }
    for (source, wanted) in [
        (hook("return { authorized: true, user: { id: claims.sub } }"), "must return"),
        (hook("return context.authorized(DB.user.create({}))"), "a saved user"),
        (hook("return context.authorized(null)"), "a saved user"),
        (hook(""), "must return"),
        ("export function run() {}".into(), "does not export a function named extractIdentity"),
    ] {
        let call = json!({ "identity": { "claims": { "sub": "u7" } } });
        let outcome = outcome(&source, call).await;
        let Outcome::Threw { message, .. } = &outcome else { panic!("{outcome:?}: {source}") };
        assert!(message.contains(wanted), "{message}: {source}");
    }
}

/// What came in pieces: the head's type, then the texts.
fn told(world: &World) -> Vec<String> {
    let parts = world.parts.lock().expect("the list");
    let text = |part: &Part| match part {
        Part::Head(head) => format!("{} {:?}", head.status, head.headers),
        Part::Piece(bytes) => String::from_utf8(bytes.clone()).expect("text"),
    };
    parts.iter().map(text).collect()
}

#[tokio::test]
async fn what_a_generator_yields_is_answered_piece_by_piece() {
    let head = "201 [(\"content-type\", \"text/html; charset=utf-8\")]";
    for (code, wanted, is_done) in [
        (
            "yield '<p>'; await 0; yield new TextEncoder().encode('é'); yield ''",
            vec!["<p>", "é"],
            true,
        ),
        ("", vec![], true),
        ("yield 'one'; throw new Error('no more')", vec!["one"], false),
        ("yield 'one'; yield 2", vec!["one"], false),
    ] {
        let source = open(&format!(
            "export async function* get({{ response }}) {{
                 response.status = 201;
                 response.headers.set('content-type', 'text/html');
                 {code} }}"
        ));
        let world = World::default();
        let job = job_of(&source, GET.call());
        let outcome = sandbox("sandbox_child").run(&job, &limits(), &world).await.outcome;
        assert_eq!(matches!(outcome, Outcome::Done(_)), is_done, "{outcome:?}: {code}");
        let wanted: Vec<&str> = std::iter::once(head).chain(wanted).collect();
        assert_eq!(told(&world), wanted, "{code}");
    }
    for (code, wanted) in [
        ("response.status = 204; yield ''", "an answer 204 has no body"),
        ("response.headers.set('content-type', 'image/png'); yield ''", "a web task answers with"),
        ("throw new Error('nothing yet')", "nothing yet"),
        ("yield { a: 1 }", "a generator yields texts or bytes, not"),
        ("yield 1", "a generator yields texts or bytes, not 1"),
    ] {
        let source = open(&format!("export function* get({{ response }}) {{ {code} }}"));
        let (world, job) = (World::default(), job_of(&source, GET.call()));
        let outcome = sandbox("sandbox_child").run(&job, &limits(), &world).await.outcome;
        let Outcome::Threw { message, .. } = &outcome else { panic!("{outcome:?}: {source}") };
        assert!(message.contains(wanted), "{message}: {source}");
        // So that it can still be answered with an error.
        assert_eq!(told(&world), [""; 0], "{code}");
    }
}

#[tokio::test]
async fn a_stream_is_answered_piece_by_piece() {
    let head = "201 [(\"content-type\", \"text/html; charset=utf-8\")]";
    for (code, wanted, is_done) in [
        (
            "controller.enqueue(bytes('<p>')); controller.enqueue(bytes('é'))",
            vec!["<p>", "é"],
            true,
        ),
        ("", vec![], true),
        (
            "if (step++) throw new Error('no more'); controller.enqueue(bytes('one'))",
            vec!["one"],
            false,
        ),
        (
            "if (step++) controller.enqueue('text'); else controller.enqueue(bytes('one'))",
            vec!["one"],
            false,
        ),
    ] {
        let close = if is_done { "controller.close()" } else { "" };
        let source = open(&format!(
            "const bytes = (text) => new TextEncoder().encode(text);
             let step = 0;
             export function get() {{
                 const stream = new ReadableStream({{ pull(controller) {{ {code}; {close} }} }});
                 const headers = {{ 'content-type': 'text/html' }};
                 return new Response(stream, {{ status: 201, headers }});
             }}"
        ));
        let (world, job) = (World::default(), job_of(&source, GET.call()));
        let outcome = sandbox("sandbox_child").run(&job, &limits(), &world).await.outcome;
        assert_eq!(matches!(outcome, Outcome::Done(_)), is_done, "{outcome:?}: {code}");
        let wanted: Vec<&str> = std::iter::once(head).chain(wanted).collect();
        assert_eq!(told(&world), wanted, "{code}");
    }
    let source = open(
        "export async function get() {
             const response = new Response(new ReadableStream());
             await response.body.cancel();
             return response;
         }",
    );
    GET.must_throw(&source, "the body was read before").await;
}

#[tokio::test]
async fn a_form_that_is_posted_can_be_read() {
    let source = open(
        "export async function post({ request }) {
             const form = await request.formData(), blob = await request.blob();
             return [[...form], blob.size, blob.type, (await request.arrayBuffer()).byteLength];
         }",
    );
    let content_type = "application/x-www-form-urlencoded";
    let (_, _, text) = Asked { content_type, ..Asked::json("a=1&b=x+y") }.of(&source).await;
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value, json!([[["a", "1"], ["b", "x y"]], 9, content_type, 9]));
}

#[tokio::test]
async fn an_iterator_that_is_no_generator_is_no_answer() {
    for value in ["new Map([[1, 'a']]).values()", "['a'].values()"] {
        let source = open(&format!("export function get() {{ return {value} }}"));
        GET.must_throw(&source, "return an array of it").await;
    }
}

#[tokio::test]
async fn a_script_knows_its_run() {
    let source = "export function run(params) {
        return [typeof this.run.id, typeof this.run.attempt, params, Object.keys(this)] }";
    let wanted = json!(["string", "number", { "a": 1 }, ["backend", "env", "run"]]);
    let call = json!({ "run": { "params": { "a": 1 } } });
    assert_eq!(outcome(source, call).await, Outcome::Done(wanted.into()));
}
