//! User objects: attributes, filters, batches (contract, section 3).

mod models;
mod query;

use reauth_server::domain::Span;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::both;
use crate::lab::{Lab, good, json_of, refused, text};

both!(
    an_object_is_created_changed_replaced_and_shown,
    filters_and_sorts_find_what_they_say,
    a_form_creates_an_object_too,
    a_batch_goes_in_order_and_says_what_became_of_each,
    wrong_values_are_named,
);

async fn with_schema(lab: &Lab) {
    let schema = json!({
        "name": "text", "email": "text", "age": "integer", "rate": "number", "active": "boolean",
        "contract_end": "date", "seen": "datetime", "role": { "choice": ["clerk", "chef"] },
    });
    lab.set(json!({ "user_schema": schema })).await;
}

async fn an_object_is_created_changed_replaced_and_shown(lab: Lab) {
    with_schema(&lab).await;
    let wanted = json!({ "user": { "name": "Ann", "age": 41, "contract_end": "2026-12-31" } });
    let (status, ann) = json_of(lab.api(Method::POST, "/objects/user.json").json(&wanted)).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(
        (&ann["type"], &ann["display"], &ann["email"]),
        (&json!("user"), &json!("Ann"), &Value::Null)
    );
    let path = format!("/objects/user/{}.json", text(&ann["id"]));
    lab.pass(Span::seconds(5));
    let patch = json!({ "user": { "age": null, "role": "chef" } });
    let patched = good(lab.api(Method::PATCH, &path).json(&patch)).await;
    assert_eq!(
        (&patched["age"], &patched["role"], &patched["name"]),
        (&Value::Null, &json!("chef"), &json!("Ann"))
    );
    assert_eq!(patched["updated_at"], "2026-05-03T06:12:05Z");
    let same = good(lab.api(Method::PUT, &path).json(&json!({ "user": patched }))).await;
    assert_eq!(same, patched, "an object sent back as it was read does not change");
    let put = good(lab.api(Method::PUT, &path).json(&json!({ "email": "ann@example.com" }))).await;
    assert_eq!((&put["name"], &put["display"]), (&Value::Null, &json!("ann@example.com")));
    assert_eq!(lab.get(&path).await, put);
    let own = "0190a000-0000-7000-8000-000000000001";
    let path = format!("/objects/user/{own}");
    let made = good(lab.api(Method::PUT, &path).json(&json!({ "user": { "name": "Bob" } }))).await;
    assert_eq!(made["id"], own);
}

async fn filters_and_sorts_find_what_they_say(lab: Lab) {
    with_schema(&lab).await;
    for (name, age, rate, active, end) in [
        ("Ann", 41, 1.5, true, "2026-12-31"),
        ("Bob", 9, 20.0, false, "2026-06-30"),
        ("Eve_%", 33, 3.25, true, "2027-01-15"),
    ] {
        let user = json!({
            "name": name, "age": age, "rate": rate, "active": active, "contract_end": end,
        });
        lab.post("/objects/user", json!({ "user": user })).await;
    }
    lab.post("/objects/user", json!({ "user": { "name": "Zoe" } })).await;
    for (query, wanted) in [
        ("query[name]=Ann", vec!["Ann"]),
        ("q[name.ne]=Ann&sort[name]=asc", vec!["Bob", "Eve_%", "Zoe"]),
        ("q[age.lt]=33", vec!["Bob"]),
        ("q[age.lte]=33&sort[age]=desc", vec!["Eve_%", "Bob"]),
        ("q[age.gt]=9&q[active]=true&sort[age]=1", vec!["Eve_%", "Ann"]),
        ("q[rate.gte]=3.25&sort[rate]=-1", vec!["Bob", "Eve_%"]),
        ("q[contract_end.lt]=2027-01-01&sort[contract_end]=asc", vec!["Bob", "Ann"]),
        ("q[name.contains]=%25", vec!["Eve_%"]),
        ("q[name.contains]=o&sort[name]=-1", vec!["Zoe", "Bob"]),
        ("q[age.null]=true", vec!["Zoe"]),
        ("q[age.null]=false&sort[age]=1&limit=2&skip=1", vec!["Eve_%", "Ann"]),
        ("sort[age]=asc", vec!["Zoe", "Bob", "Eve_%", "Ann"]),
        ("q[_updated_at.lt]=2026-05-03T06:12:00Z", vec![]),
        ("q[name]=' or 1=1 --", vec![]),
    ] {
        let found = lab.get(&format!("/objects/user.json?{query}")).await;
        let objects = found["objects"].as_array().expect("a list");
        let names: Vec<String> = objects.iter().map(|user| text(&user["name"])).collect();
        assert_eq!(names, wanted, "{query}");
    }
    for query in ["q[nick]=x", "q[age.like]=1", "sort[age]=up", "q[age]=old", "page=2"] {
        let request = lab.api(Method::GET, &format!("/objects/user?{query}"));
        refused(request, 422, "INVALID_VALUE").await;
    }
    refused(lab.api(Method::GET, "/objects/invoice"), 404, "OBJECT_NOT_FOUND").await;
}

async fn a_form_creates_an_object_too(lab: Lab) {
    with_schema(&lab).await;
    let form = [("user[name]", "Ann & Co"), ("user[age]", "41"), ("user[active]", "true")];
    let body = "user%5Bname%5D=Ann+%26+Co&user[age]=41&user[active]=true";
    let request = lab.api(Method::POST, "/objects/user.json");
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
    let made = good(request).await;
    assert_eq!(made["name"], form[0].1);
    assert_eq!((&made["age"], &made["active"]), (&json!(41), &json!(true)));
}

async fn a_batch_goes_in_order_and_says_what_became_of_each(lab: Lab) {
    let own = "0190a000-0000-7000-8000-000000000002";
    let object = |more: Value| {
        let mut object = json!({ "type": "user" });
        object.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        object
    };
    let operations = json!([
        { "method": "post", "object": object(json!({ "name": "Ann" })) },
        { "method": "put", "object": object(json!({ "id": own, "name": "Bob" })) },
        { "method": "patch", "object": object(json!({ "id": own, "nick": "x" })) },
        { "method": "patch", "object": object(json!({ "id": own, "email": "b@example.com" })) },
        { "method": "delete", "object": object(json!({ "id": own })) },
        { "method": "delete", "object": object(json!({ "id": own })) },
    ]);
    let done = lab.post("/batch.json", json!({ "operations": operations })).await;
    let list = done["operations"].as_array().expect("a list");
    let successes: Vec<bool> = list.iter().map(|one| one["success"] == true).collect();
    assert_eq!(successes, [true, true, false, true, true, false]);
    assert_eq!(list[2]["error"]["type"], "INVALID_VALUE");
    assert_eq!(list[5]["error"]["type"], "OBJECT_NOT_FOUND");
    assert_eq!(list[1]["object"], json!({ "type": "user", "id": own }));
    let stop = json!({ "operations": operations, "stop_on_error": true });
    let done = lab.post("/batch", stop).await;
    assert_eq!(done["operations"].as_array().map(Vec::len), Some(2));
    let many: Vec<Value> = (0..1_001).map(|_| operations[0].clone()).collect();
    let request = lab.api(Method::POST, "/batch").json(&json!({ "operations": many }));
    refused(request, 400, "INVALID_API_REQUEST").await;
    let before = lab.head().await;
    let ill = json!({ "operations": [operations[0], { "method": "steal", "object": {} }] });
    refused(lab.api(Method::POST, "/batch").json(&ill), 422, "INVALID_VALUE").await;
    assert_eq!(lab.head().await, before, "an ill-formed batch is refused whole");
}

async fn wrong_values_are_named(lab: Lab) {
    with_schema(&lab).await;
    for (name, value) in [
        ("age", json!("41")),
        ("age", json!(1.5)),
        ("active", json!("yes")),
        ("nick", json!("x")),
        ("contract_end", json!("31.12.2026")),
        ("role", json!("king")),
        ("name", json!(["a"])),
    ] {
        let mut user = serde_json::Map::new();
        user.insert(name.into(), value);
        let request = lab.api(Method::POST, "/objects/user").json(&json!({ "user": user }));
        assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], name);
    }
    let request = lab.api(Method::POST, "/objects/user").json(&json!({ "user": 7 }));
    assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "user");
    refused(lab.api(Method::POST, "/objects/user"), 400, "INVALID_API_REQUEST").await;
}
