//! DB and CloudCode: what scripts ask of the API, and what they make of its answers.

use std::sync::Mutex;

use reauth_sandbox::{Host, Outcome, Request, Response};
use serde_json::{Value, json};

use super::{job, limits, sandbox};

const BASE: &str = "http://api.test/api/v4/x";

/// An API with some users and a task; it remembers what it was asked.
struct Directory {
    users: Mutex<Vec<Value>>,
    asked: Mutex<Vec<(String, Value)>>,
}

impl Directory {
    fn of(count: usize) -> Self {
        let user = |number| {
            json!({ "id": format!("u{number}"), "type": "user",
            "updated_at": "2026-05-03T06:12:00Z", "display": "", "name": format!("n{number}"),
            "email": null })
        };
        Self { users: Mutex::new((0..count).map(user).collect()), asked: Mutex::default() }
    }

    /// Method and path, then the body, of each request.
    fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().expect("the list").clone()
    }

    /// What a script's `run` with this body returns.
    async fn value(&self, body: &str) -> Value {
        match self.outcome(body).await {
            Outcome::Done(json) => json.read().expect("a value"),
            other => panic!("{other:?}: {body}"),
        }
    }

    async fn outcome(&self, body: &str) -> Outcome {
        let source = format!("export async function run(params) {{ {body} }}");
        let job = job("task.js", &source, Value::Null);
        sandbox("sandbox_child").run(&job, &limits(), self).await.outcome
    }

    fn answer(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut users = self.users.lock().expect("the users");
        let id = path.trim_start_matches("/objects/user/").trim_end_matches(".json");
        let place = users.iter().position(|user| user["id"] == id);
        match (method, path, place) {
            ("POST", "/objects/user/query.json", _) => (200, page(&users, body)),
            ("POST", "/objects/user.json", _) => {
                let user = merged(json!({ "id": "new", "type": "user" }), &body["user"]);
                users.push(user.clone());
                (201, user)
            }
            ("POST", "/batch.json", _) => (200, batch(&mut users, body)),
            ("POST", "/tasks/report/run", _) => (202, json!({ "id": "r7", "state": "queued" })),
            ("POST", "/tasks/report/run?wait=true", _) => {
                let result = json!({ "got": body["params"] });
                (200, json!({ "id": "r8", "state": "succeeded", "result": result }))
            }
            ("POST", "/tasks/broken/run?wait=true", _) => {
                let error = json!({ "kind": "threw", "message": "RangeError: too far" });
                (200, json!({ "id": "r9", "state": "failed", "error": error }))
            }
            ("GET", _, Some(place)) => (200, users[place].clone()),
            ("PATCH", _, Some(_)) if body["user"]["name"] == "" => {
                (422, json!({ "type": "INVALID_VALUE", "detail": "name: must not be empty" }))
            }
            ("PATCH", _, Some(place)) => {
                users[place] = merged(users[place].clone(), &body["user"]);
                (200, users[place].clone())
            }
            ("DELETE", _, Some(place)) => {
                users.remove(place);
                (200, Value::Null)
            }
            _ => (404, json!({ "type": "OBJECT_NOT_FOUND", "detail": format!("no {path}") })),
        }
    }
}

/// It knows one condition: `email = ?`.
fn page(users: &[Value], body: &Value) -> Value {
    let is_asked = body["expression"] == "email = ?";
    let found: Vec<&Value> =
        users.iter().filter(|user| !is_asked || user["email"] == body["arguments"][0]).collect();
    let number = |name: &str| usize::try_from(body[name].as_u64().expect("a number")).expect("few");
    let (limit, skip) = (number("limit"), number("skip"));
    assert!(limit <= 1000, "{body}");
    let objects: Vec<&Value> = found.iter().skip(skip).take(limit).copied().collect();
    let more = skip + objects.len() < found.len();
    json!({ "total": found.len(), "count": objects.len(), "more": more, "objects": objects })
}

/// A name that is empty fails.
fn batch(users: &mut Vec<Value>, body: &Value) -> Value {
    let operations = body["operations"].as_array().expect("operations");
    assert!(operations.len() <= 1000, "{}", operations.len());
    let results = operations.iter().enumerate().map(|(at, operation)| {
        let (method, object) = (&operation["method"], &operation["object"]);
        let id = object["id"].as_str().map_or_else(|| format!("b{at}"), str::to_owned);
        let object_view = json!({ "type": "user", "id": id });
        if object["name"] == "" {
            let error = json!({ "type": "INVALID_VALUE", "detail": "name: must not be empty" });
            return json!({ "method": method, "object": object_view, "success": false,
                "error": error });
        }
        if method == "delete" {
            users.retain(|user| user["id"] != id.as_str());
        }
        json!({ "method": method, "object": object_view, "success": true })
    });
    json!({ "stop_on_error": false, "operations": results.collect::<Vec<_>>() })
}

fn merged(mut object: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().expect("attributes") {
        object[name] = value.clone();
    }
    object
}

impl Host for Directory {
    async fn fetch(&self, request: Request) -> Result<Response, String> {
        let path = request.url.strip_prefix(BASE).ok_or("this is another world")?;
        let token = ("authorization".to_owned(), "Token rer_secret".to_owned());
        assert!(request.headers.contains(&token), "{:?}", request.headers);
        let body = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        let (status, told) = self.answer(&request.method, path, &body);
        let what = format!("{} {path}", request.method);
        self.asked.lock().expect("the list").push((what, body));
        Ok(Response {
            status,
            status_text: String::new(),
            url: request.url.clone(),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: if told.is_null() { Vec::new() } else { told.to_string().into_bytes() },
        })
    }
}

#[tokio::test]
async fn a_query_is_asked_page_by_page() {
    let api = Directory::of(2_300);
    let body = "
        const all = await DB.user.all().toArray();
        let count = 0;
        for await (const user of DB.user.all().skip(100).limit(1500)) count += 1;
        return [all.length, all[2299].name, count, await DB.user.all().count(),
                await DB.user.all().skip(2000).limit(500).count(),
                (await DB.user.all().first()).id, await DB.user.where('email = ?', 'x').first()];";
    let wanted = json!([2300, "n2299", 1500, 2300, 300, "u0", null]);
    assert_eq!(api.value(body).await, wanted);
    let pages: Vec<Value> = api.asked().into_iter().map(|(_, body)| body).take(5).collect();
    let page = |limit: u32, skip: u32| json!({ "limit": limit, "skip": skip });
    let wanted =
        [page(1000, 0), page(1000, 1000), page(1000, 2000), page(1000, 100), page(500, 1100)];
    assert_eq!(pages, wanted);
}

#[tokio::test]
async fn conditions_are_joined_and_values_travel_beside_them() {
    let api = Directory::of(1);
    let body = "
        const base = DB.user.where('email = ? or age > ?', \"a' or 1 = 1\", 18);
        await base.where({ left: null, role: ['clerk', 'chef'] }).orderBy('-name', 'email').first();
        await base.where('seen < ?', new Date(1500)).count();
        const wrong = [];
        for (const query of [() => DB.user.where('a = ?'), () => DB.user.where({ a: undefined }),
            () => DB.user.where('a = ?', {}), () => DB.user.where(7), () => DB.user.all().limit(-1),
            () => DB.user.where('a = ?', NaN), () => DB.user.where({ 'a = 1 or b': 1 })]) {
            try { query(); } catch (error) { wrong.push(error.name); }
        }
        return [wrong.join(), await DB.user.first(undefined), await DB.user.first(null)];";
    let wrong = ["TypeError"; 7].join(",");
    assert_eq!(api.value(body).await, json!([wrong, null, null]));
    let [first, second] = <[_; 2]>::try_from(api.asked()).expect("two requests");
    let text = "(email = ? or age > ?) and (left = ?) and (role in ?)";
    let arguments = json!(["a' or 1 = 1", 18, null, ["clerk", "chef"]]);
    let wanted = json!({ "expression": text, "arguments": arguments, "limit": 1, "skip": 0,
        "sort": ["-name", "email"] });
    assert_eq!(first, ("POST /objects/user/query.json".to_owned(), wanted));
    assert_eq!(second.1["arguments"], json!(["a' or 1 = 1", 18, "1970-01-01T00:00:01Z"]));
}

#[tokio::test]
async fn an_object_sends_only_what_has_changed() {
    let api = Directory::of(3);
    let body = "
        const user = await DB.user.first('u1');
        user.name = 'Ann';
        await user.save();
        await user.save();
        user.email = 'ann@x.test';
        delete user.name;
        await user.save();
        let fixed; try { user.id = 'u2'; } catch (error) { fixed = error.name; }
        user.name = 'forgotten';
        await user.reload();
        const made = DB.user.create({ name: 'Bea😀'.slice(0, 4), email: undefined });
        const before = [made.id, made.type];
        await made.save();
        await made.destroy();
        return [user, fixed, before, made.id, await DB.user.first('new')];";
    let user = json!({ "id": "u1", "type": "user", "updated_at": "2026-05-03T06:12:00Z",
        "display": "", "name": null, "email": "ann@x.test" });
    let wanted = json!([user, "TypeError", [null, "user"], "new", null]);
    assert_eq!(api.value(body).await, wanted);
    let (gets, changes): (Vec<_>, Vec<_>) =
        api.asked().into_iter().partition(|(what, _)| what.starts_with("GET"));
    assert_eq!(gets.len(), 3);
    let patch = "PATCH /objects/user/u1.json".to_owned();
    let wanted = [
        (patch.clone(), json!({ "user": { "name": "Ann" } })),
        (patch, json!({ "user": { "email": "ann@x.test", "name": null } })),
        ("POST /objects/user.json".to_owned(), json!({ "user": { "name": "Bea\u{fffd}" } })),
        ("DELETE /objects/user/new.json".to_owned(), Value::Null),
    ];
    assert_eq!(changes, wanted);
}

#[tokio::test]
async fn a_loop_may_destroy_what_it_is_given() {
    let api = Directory::of(1_100);
    let body = "
        let count = 0;
        for await (const user of DB.user.all()) { await user.destroy(); count += 1; }
        return count;";
    assert_eq!(api.value(body).await, json!(1_100));
    assert!(api.users.lock().expect("the users").is_empty(), "nobody was passed over");
}

#[tokio::test]
async fn a_batch_is_split_and_names_what_failed() {
    let api = Directory::of(1_100);
    let body = "
        const users = await DB.user.all().toArray();
        const batch = new DB.Batch();
        for (const user of users) { user.name += '!'; batch.save(user); batch.save(user); }
        users[0].name = '';
        batch.destroy(users[1]);
        const made = DB.user.create({ name: 'Bea' });
        batch.save(made);
        let failed;
        try { await batch.execute(); } catch (error) {
            failed = [error.message, error.errors.length, error.errors[0].object === users[0],
                error.errors[0].error.type];
        }
        users[0].name = 'better';
        await batch.execute();
        await batch.execute();
        return [failed, made.id !== null];";
    let words = "1 operations of the batch failed, first: name: must not be empty";
    assert_eq!(api.value(body).await, json!([[words, 1, true, "INVALID_VALUE"], true]));
    let batches: Vec<Value> = api.asked().into_iter().skip(2).map(|(_, body)| body).collect();
    let counts: Vec<usize> =
        batches.iter().map(|body| body["operations"].as_array().expect("a list").len()).collect();
    assert_eq!(counts, [1000, 102, 1], "what has succeeded is not sent again");
    let again = json!({ "method": "patch",
        "object": { "type": "user", "id": "u0", "name": "better" } });
    assert_eq!(batches[2]["operations"][0], again);
    let last = json!({ "method": "post", "object": { "type": "user", "name": "Bea" } });
    assert_eq!(batches[1]["operations"][101], last);
}

#[tokio::test]
async fn an_error_of_the_api_is_thrown_with_its_type() {
    let api = Directory::of(1);
    let body = "
        const user = await DB.user.first('u0');
        user.name = '';
        try { await user.save(); } catch (error) {
            return [error instanceof Error, error.status, error.type, error.message];
        }";
    let words = "PATCH /objects/user/u0.json: 422 INVALID_VALUE: name: must not be empty";
    assert_eq!(api.value(body).await, json!([true, 422, "INVALID_VALUE", words]));
    let outcome = api.outcome("await DB.user.create({ id: 'mine' }).save();").await;
    assert!(
        matches!(&outcome, Outcome::Threw { message, .. } if message.contains("server's to set")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn tasks_start_other_tasks() {
    let api = Directory::of(0);
    let body = "
        const id = await CloudCode.scheduleTask({ task: 'report', parameters: { days: 30 },
            at: new Date(1500), after: 599_001, queue: 'mail' });
        await CloudCode.scheduleTask({ task: 'report', after: '10m', at: '2026-05-03T08:12:00Z' });
        const result = await CloudCode.callTask('report', { days: 7 });
        let failed; try { await CloudCode.callTask('broken'); } catch (error) {
            failed = [error.message, error.kind, error.run];
        }
        let nameless; try { await CloudCode.callTask(); } catch (error) { nameless = error.name; }
        return [id, result, failed, nameless];";
    let failed = json!(["RangeError: too far", "threw", "r9"]);
    let wanted = json!(["r7", { "got": { "days": 7 } }, failed, "TypeError"]);
    assert_eq!(api.value(body).await, wanted);
    let asked = api.asked();
    let wanted = json!({ "params": { "days": 30 }, "at": "1970-01-01T00:00:02Z", "after": "600s",
        "queue": "mail" });
    assert_eq!(asked[0], ("POST /tasks/report/run".to_owned(), wanted));
    assert_eq!(asked[1].1, json!({ "at": "2026-05-03T08:12:00Z", "after": "10m" }));
}
