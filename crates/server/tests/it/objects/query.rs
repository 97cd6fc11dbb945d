//! Finding users by expressions: what they mean, on both databases, and that filters in an address
//! mean the same.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use reauth_server::domain::apps::{self, Settings};
use reauth_server::domain::ledger::By;
use reauth_server::domain::users::{self, Query, UserSchema, expression};
use reauth_server::domain::{AppId, Clock, Db, Error, Place, Result};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::with_schema;
use crate::both;
use crate::lab::{Kind, Lab, beginning, good, refused, text};
use crate::postgres;

both!(
    an_expression_finds_what_it_says,
    pages_and_sorts_are_as_in_a_list,
    filters_of_an_address_mean_the_same,
    what_is_wrong_in_an_expression_is_named,
    the_columns_that_every_user_has_are_asked_for_too,
);

const PATH: &str = "/objects/user/query.json";

/// Four users: the last one has nothing but a name.
async fn four(lab: &Lab) {
    with_schema(lab).await;
    for (name, age, rate, active, end, role) in [
        ("Ann", 41, 1.5, true, "2026-12-31", "clerk"),
        ("Bob", 9, 20.0, false, "2026-06-30", "chef"),
        ("Éve_%", 33, 3.25, true, "2027-01-15", "clerk"),
    ] {
        let email = format!("{}@example.com", name.to_lowercase());
        let user = json!({
            "name": name, "email": email, "age": age, "rate": rate, "active": active,
            "contract_end": end, "role": role, "seen": "2026-05-01T00:00:00Z",
        });
        lab.post("/objects/user", json!({ "user": user })).await;
    }
    lab.post("/objects/user", json!({ "user": { "name": "Zoe" } })).await;
}

fn names(found: &Value) -> Vec<String> {
    let objects = found["objects"].as_array().expect("a list");
    objects.iter().map(|user| text(&user["name"])).collect()
}

async fn an_expression_finds_what_it_says(lab: Lab) {
    four(&lab).await;
    let all = ["Ann", "Bob", "Éve_%", "Zoe"];
    for (expression, arguments, wanted) in [
        ("", json!([]), &all[..]),
        ("name = ?", json!(["Ann"]), &["Ann"]),
        ("name != ?", json!(["Ann"]), &["Bob", "Éve_%", "Zoe"]),
        ("age != ?", json!([9]), &["Ann", "Éve_%", "Zoe"]),
        ("age < ?", json!([33]), &["Bob"]),
        ("age <= ?", json!([33]), &["Bob", "Éve_%"]),
        ("rate > ?", json!([1.5]), &["Bob", "Éve_%"]),
        ("rate >= ?", json!([1.5]), &["Ann", "Bob", "Éve_%"]),
        ("active = ?", json!([true]), &["Ann", "Éve_%"]),
        ("contract_end < ?", json!(["2027-01-01"]), &["Ann", "Bob"]),
        ("contract_end contains ?", json!(["-06-"]), &["Bob"]),
        ("seen starts with ?", json!(["2026-05"]), &["Ann", "Bob", "Éve_%"]),
        ("name contains ?", json!(["_"]), &["Éve_%"]),
        ("name contains ?", json!(["%"]), &["Éve_%"]),
        ("email contains ?", json!([""]), &["Ann", "Bob", "Éve_%"]),
        ("name starts with ?", json!(["A"]), &["Ann"]),
        ("name starts with ?", json!(["a"]), &[]),
        ("name starts with ?", json!(["Éve_"]), &["Éve_%"]),
        ("name starts with ?", json!(["%"]), &[]),
        ("name starts with ?", json!(["_"]), &[]),
        ("name starts with ?", json!(["Ann and more"]), &[]),
        ("email starts with ?", json!([""]), &["Ann", "Bob", "Éve_%"]),
        ("role in ?", json!([["chef", "clerk"]]), &["Ann", "Bob", "Éve_%"]),
        ("age in ?", json!([[9, 41]]), &["Ann", "Bob"]),
        ("age not in ?", json!([[9, 41]]), &["Éve_%", "Zoe"]),
        ("age in ?", json!([[]]), &[]),
        ("age not in ?", json!([[]]), &all),
        // A null is "not set", alone and in a list.
        ("age = ?", json!([null]), &["Zoe"]),
        ("age != ?", json!([null]), &["Ann", "Bob", "Éve_%"]),
        ("age in ?", json!([[null, 9]]), &["Bob", "Zoe"]),
        ("age in ?", json!([[null]]), &["Zoe"]),
        ("age not in ?", json!([[9, null]]), &["Ann", "Éve_%"]),
        ("age not in ?", json!([[null]]), &["Ann", "Bob", "Éve_%"]),
        // And binds stronger than or.
        ("name = ? or age > ? and active = ?", json!(["Bob", 40, true]), &["Ann", "Bob"]),
        ("(name = ? or age > ?) and active = ?", json!(["Bob", 40, true]), &["Ann"]),
        ("email = ? AND (name != ? Or age > ?)", json!(["ann@example.com", "Ann", 40]), &["Ann"]),
        ("((name = ?) or (age = ? and (role = ?)))", json!(["Zoe", 9, "chef"]), &["Bob", "Zoe"]),
        // What looks like SQL is a value like any other.
        ("name = ?", json!(["' or 1=1 --"]), &[]),
        ("name in ?", json!([["') or 1=1 --", "$1", "Ann"]]), &["Ann"]),
        ("name contains ?", json!(["'; drop table users; --"]), &[]),
        ("name != ?", json!(["\" or \"\" = \""]), &all),
    ] {
        let body = json!({ "expression": expression, "arguments": arguments });
        let found = lab.post(PATH, body).await;
        assert_eq!(names(&found), wanted, "{expression} {arguments}");
        assert_eq!(found["total"], wanted.len(), "{expression}");
    }
}

async fn pages_and_sorts_are_as_in_a_list(lab: Lab) {
    four(&lab).await;
    // Whoever sends nothing, or nulls as some clients do, gets everyone.
    let all = lab.get("/objects/user.json").await;
    assert_eq!(good(lab.api(Method::POST, PATH)).await, all);
    let nulls = json!({
        "expression": null, "arguments": null, "limit": null, "skip": null, "sort": null,
    });
    for body in [json!({}), json!({ "expression": "" }), nulls] {
        assert_eq!(lab.post(PATH, body).await, all);
    }
    for (body, address) in [
        (json!({ "sort": ["-name"] }), "sort[name]=desc"),
        (json!({ "sort": ["age"] }), "sort[age]=asc"),
        (json!({ "sort": ["-active", "rate"] }), "sort[active]=-1&sort[rate]=1"),
        (json!({ "sort": ["-_created_at"], "limit": 2 }), "sort[_created_at]=desc&limit=2"),
        (json!({ "limit": 2, "skip": 1 }), "limit=2&skip=1"),
        (json!({ "limit": 3, "skip": 1 }), "limit=3&skip=1"),
        (json!({ "limit": 0 }), "limit=0"),
        (json!({ "limit": 5000, "skip": 4 }), "limit=5000&skip=4"),
    ] {
        let found = lab.post(PATH, body.clone()).await;
        assert_eq!(found, lab.get(&format!("/objects/user?{address}")).await, "{body}");
    }
    let body = json!({
        "expression": "age != ?", "arguments": [null], "sort": ["-age"], "limit": 1, "skip": 1,
    });
    let page = lab.post(PATH, body).await;
    assert_eq!(names(&page), ["Éve_%"]);
    assert_eq!(
        (&page["total"], &page["count"], &page["more"]),
        (&json!(3), &json!(1), &json!(true))
    );
}

async fn filters_of_an_address_mean_the_same(lab: Lab) {
    four(&lab).await;
    for (address, expression, arguments) in [
        ("q[name]=Ann", "name = ?", json!(["Ann"])),
        ("q[name.ne]=Ann", "name != ?", json!(["Ann"])),
        ("q[role.ne]=chef", "role != ?", json!(["chef"])),
        ("q[age.lt]=33", "age < ?", json!([33])),
        ("q[age.lte]=33", "age <= ?", json!([33])),
        ("q[rate.gt]=3.25", "rate > ?", json!([3.25])),
        ("q[rate.gte]=3.25", "rate >= ?", json!([3.25])),
        ("q[active]=false", "active = ?", json!([false])),
        ("q[name.contains]=%25", "name contains ?", json!(["%"])),
        ("q[name.contains]=", "name contains ?", json!([""])),
        ("q[age.null]=true", "age = ?", json!([null])),
        ("q[age.null]=false", "age != ?", json!([null])),
        ("q[name]=null", "name = ?", json!(["null"])),
        (
            "q[age.gt]=9&q[active]=true&query[role.ne]=chef",
            "age > ? and active = ? and role != ?",
            json!([9, true, "chef"]),
        ),
        ("q[_id.ne]=x", "_id != ?", json!(["x"])),
        (
            "q[_updated_at.gte]=2026-05-03T06:12:00Z",
            "_updated_at >= ?",
            json!(["2026-05-03T06:12:00Z"]),
        ),
    ] {
        let body = json!({ "expression": expression, "arguments": arguments });
        let found = lab.post(PATH, body).await;
        assert_eq!(found, lab.get(&format!("/objects/user?{address}")).await, "{address}");
    }
    for address in ["q[age]=null", "q[age.contains]=4", "q[id.contains]=4", "q[active]=null"] {
        let request = lab.api(Method::GET, &format!("/objects/user?{address}"));
        refused(request, 422, "INVALID_VALUE").await;
    }
}

async fn what_is_wrong_in_an_expression_is_named(lab: Lab) {
    four(&lab).await;
    let terms = |count: usize| vec!["name = ?"; count].join(" or ");
    let deep = format!("{}name = ?{}", "(".repeat(21), ")".repeat(21));
    for (body, field) in [
        (json!({ "expression": "name", "arguments": [] }), "expression"),
        (json!({ "expression": "name = 'Ann'" }), "expression"),
        (json!({ "expression": "name = ? or", "arguments": ["a"] }), "expression"),
        (json!({ "expression": "(name = ?", "arguments": ["a"] }), "expression"),
        (json!({ "expression": "nick = ?", "arguments": ["a"] }), "expression"),
        (json!({ "expression": "age contains ?", "arguments": ["4"] }), "expression"),
        (json!({ "expression": "name = ?) or (1=1", "arguments": ["a"] }), "expression"),
        (json!({ "expression": "1=1 --" }), "expression"),
        (json!({ "expression": "name = ?; drop table users", "arguments": [1] }), "expression"),
        (json!({ "expression": "name = ? union select", "arguments": ["a"] }), "expression"),
        (json!({ "expression": terms(101), "arguments": vec!["a"; 101] }), "expression"),
        (json!({ "expression": deep, "arguments": ["a"] }), "expression"),
        (json!({ "expression": 7 }), "expression"),
        (json!({ "expression": "name = ?" }), "arguments"),
        (json!({ "expression": "name = ?", "arguments": ["a", "b"] }), "arguments"),
        (json!({ "arguments": ["a"] }), "arguments"),
        (json!({ "expression": "age = ?", "arguments": ["41"] }), "arguments"),
        (json!({ "expression": "name = ?", "arguments": [{}] }), "arguments"),
        (json!({ "expression": "age in ?", "arguments": [9] }), "arguments"),
        (json!({ "expression": "age in ?", "arguments": [vec![9; 1001]] }), "arguments"),
        (json!({ "expression": "age > ?", "arguments": [null] }), "arguments"),
        (json!({ "expression": "name = ?", "arguments": ["\0"] }), "arguments"),
        (json!({ "arguments": "a" }), "arguments"),
        (json!({ "limit": -1 }), "limit"),
        (json!({ "limit": "ten" }), "limit"),
        (json!({ "skip": 1.5 }), "skip"),
        (json!({ "sort": ["nick"] }), "sort"),
        (json!({ "sort": vec!["name"; 21] }), "sort"),
        (json!({ "sort": "name" }), "sort"),
        (json!({ "where": "name = ?" }), "where"),
    ] {
        let answer = refused(lab.api(Method::POST, PATH).json(&body), 422, "INVALID_VALUE").await;
        assert_eq!(answer["field"], field, "{body}");
    }
    let body = json!({ "expression": "name = ? and age 41", "arguments": ["Ann"] });
    let answer = refused(lab.api(Method::POST, PATH).json(&body), 422, "INVALID_VALUE").await;
    let detail = text(&answer["detail"]);
    assert!(detail.starts_with("expression: at character 18: expected an operator"), "{detail}");
    refused(lab.api(Method::POST, PATH).body("name = ?"), 400, "INVALID_API_REQUEST").await;
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        let request = lab.api(method, PATH).json(&json!({}));
        refused(request, 404, "ROUTE_ERROR").await;
    }
    // The most that may be asked is answered by both databases.
    let lists = vec![vec!["Ann"; 1_000]; 10];
    let mut arguments: Vec<Value> = lists.into_iter().map(Value::from).collect();
    arguments.extend(vec![json!("Bob"); 90]);
    let expression = format!("{} or {}", ["name in ?"; 10].join(" or "), terms(90));
    let body = json!({
        "expression": expression, "arguments": arguments, "sort": vec!["-name"; 20],
    });
    assert_eq!(names(&lab.post(PATH, body).await), ["Bob", "Ann"]);
    let deep = format!("{}name = ?{}", "(".repeat(20), ")".repeat(20));
    let body = json!({ "expression": deep, "arguments": ["Ann"] });
    assert_eq!(names(&lab.post(PATH, body).await), ["Ann"]);
}

async fn the_columns_that_every_user_has_are_asked_for_too(lab: Lab) {
    four(&lab).await;
    let all = lab.get("/objects/user").await;
    let ids: Vec<&Value> =
        all["objects"].as_array().expect("a list").iter().map(|user| &user["id"]).collect();
    lab.pass(reauth_server::domain::Span::hours(1));
    let path = format!("/objects/user/{}", text(ids[1]));
    good(lab.api(Method::PATCH, &path).json(&json!({ "age": 10 }))).await;
    let later = "2026-05-03T06:30:00Z";
    let all = ["Ann", "Bob", "Éve_%", "Zoe"];
    for (expression, arguments, wanted) in [
        ("id = ?", json!([ids[0]]), &["Ann"][..]),
        ("_id != ?", json!([ids[0]]), &["Bob", "Éve_%", "Zoe"]),
        ("id in ?", json!([[ids[3], ids[0], "x"]]), &["Ann", "Zoe"]),
        ("id not in ?", json!([[ids[3], ids[0], null]]), &["Bob", "Éve_%"]),
        ("id in ?", json!([[null, ids[2]]]), &["Éve_%"]),
        ("id in ?", json!([[]]), &[]),
        ("id = ?", json!([null]), &[]),
        ("id != ?", json!([null]), &all),
        ("_updated_at > ?", json!([later]), &["Bob"]),
        ("updated_at <= ?", json!([later]), &["Ann", "Éve_%", "Zoe"]),
        ("_created_at < ?", json!([later]), &all),
        ("_created_at < ? and (id = ? or id = ?)", json!([later, ids[1], "x"]), &["Bob"]),
    ] {
        let body = json!({ "expression": expression, "arguments": arguments });
        assert_eq!(names(&lab.post(PATH, body).await), wanted, "{expression} {arguments}");
    }
    for (expression, argument) in [("id = ?", json!(7)), ("_updated_at > ?", json!("soon"))] {
        let body = json!({ "expression": expression, "arguments": [argument] });
        let answer = refused(lab.api(Method::POST, PATH).json(&body), 422, "INVALID_VALUE").await;
        assert_eq!(answer["field"], "arguments", "{expression}");
    }
}

/// How many random expressions each database answers.
const EXPRESSIONS: u32 = 150;

/// An expression as someone means it.
#[derive(Clone, Debug)]
enum Meant {
    Term(&'static str, &'static str, Value),
    All(Vec<Self>),
    Any(Vec<Self>),
}

/// Values that some user has, and values that nobody has.
fn values(attribute: &'static str) -> impl Strategy<Value = Value> {
    let known = match attribute {
        "age" => vec![json!(1), json!(2), json!(30), json!(-5)],
        "active" => vec![json!(true), json!(false)],
        _ => vec![json!("a"), json!("ab"), json!("b%"), json!("ÄB"), json!("")],
    };
    select(known)
}

fn terms() -> impl Strategy<Value = Meant> {
    select(vec!["name", "nick", "age", "active"]).prop_flat_map(|attribute| {
        let mut operators = vec!["=", "!=", "<", "<=", ">", ">=", "in", "not in"];
        if ["name", "nick"].contains(&attribute) {
            operators.extend(["contains", "starts with"]);
        }
        let some = || proptest::option::weighted(0.8, values(attribute));
        let lists = proptest::collection::vec(some(), 0..4);
        (select(operators), values(attribute), some(), lists).prop_map(move |drawn| {
            let (operator, value, some, list) = drawn;
            let value = match operator {
                "=" | "!=" => some.unwrap_or(Value::Null),
                "in" | "not in" => list.into(),
                _ => value,
            };
            Meant::Term(attribute, operator, value)
        })
    })
}

fn meant() -> impl Strategy<Value = Meant> {
    terms().prop_recursive(3, 16, 3, |inner| {
        let parts = proptest::collection::vec(inner, 2..4);
        prop_oneof![parts.clone().prop_map(Meant::All), parts.prop_map(Meant::Any)]
    })
}

impl Meant {
    /// As it is written; its arguments are added.
    fn written(&self, arguments: &mut Vec<Value>) -> String {
        let (parts, between) = match self {
            Self::Term(attribute, operator, value) => {
                arguments.push(value.clone());
                return format!("{attribute} {operator} ?");
            }
            Self::All(parts) => (parts, ") and ("),
            Self::Any(parts) => (parts, ") or ("),
        };
        let parts: Vec<String> = parts.iter().map(|part| part.written(arguments)).collect();
        format!("({})", parts.join(between))
    }

    /// Whether it holds for a user, by its words alone.
    fn holds(&self, user: &Map<String, Value>) -> bool {
        let (attribute, operator, wanted) = match self {
            Self::All(parts) => return parts.iter().all(|part| part.holds(user)),
            Self::Any(parts) => return parts.iter().any(|part| part.holds(user)),
            Self::Term(attribute, operator, wanted) => (attribute, operator, wanted),
        };
        let has = user.get(*attribute).unwrap_or(&Value::Null);
        let is_one_of = |list: &Value| list.as_array().is_some_and(|list| list.contains(has));
        match *operator {
            "=" => return has == wanted,
            "!=" => return has != wanted,
            "in" => return is_one_of(wanted),
            "not in" => return !is_one_of(wanted),
            _ if has.is_null() => return false,
            _ => {}
        }
        // Booleans are compared by their names, texts by their code points.
        let name = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let (has_name, wanted_name) = (name(has), name(wanted));
        let order = match (has.as_i64(), wanted.as_i64()) {
            (Some(has), Some(wanted)) => has.cmp(&wanted),
            _ => has_name.cmp(&wanted_name),
        };
        match *operator {
            "<" => order.is_lt(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            ">=" => order.is_ge(),
            "contains" => has_name.contains(&wanted_name),
            "starts with" => has_name.starts_with(&wanted_name),
            other => panic!("{other}"),
        }
    }
}

/// One user for each combination of what they have, and the app's schema.
async fn everyone(db: &Db) -> Result<(AppId, UserSchema, Vec<Map<String, Value>>)> {
    let schema = json!({ "name": "text", "nick": "text", "age": "integer", "active": "boolean" });
    let user_schema: UserSchema = serde_json::from_value(schema).expect("a schema");
    let settings = Settings { user_schema: user_schema.clone(), ..Settings::default() };
    let mut tx = db.write(By::System).await?;
    let app = apps::create(&mut tx, ("app", settings), true).await?.id;
    let mut all = Vec::new();
    for (name, nick) in [("a", "ab"), ("b%", ""), ("xÄB", "ÄBx"), ("", "a")] {
        for age in [json!(1), json!(30), json!(null)] {
            for active in [json!(true), json!(null)] {
                let user = json!({ "name": name, "nick": nick, "age": age, "active": active });
                let mut user = user.as_object().expect("an object").clone();
                user.retain(|_, value| !value.is_null());
                if age.is_null() && active.is_null() {
                    user.remove("nick");
                }
                users::create(&mut tx, app, &user_schema, None, user.clone()).await?;
                all.push(user);
            }
        }
    }
    tx.commit().await?;
    Ok((app, user_schema, all))
}

fn every_expression_finds_whom_it_means(kind: Kind) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let place = match kind {
        Kind::Sqlite => Place::Directory(dir.path().join("data")),
        Kind::Postgres => Place::Postgres(postgres::database()),
    };
    let db = Db::open(place, Clock::manual(beginning()));
    let db = runtime.block_on(db).expect("a store");
    let (app, schema, all) = runtime.block_on(everyone(&db)).expect("users");
    let config = Config { cases: EXPRESSIONS, failure_persistence: None, ..Config::default() };
    // A failure prints the shortest expression that fails.
    let found = TestRunner::new(config).run(&meant(), |meant| {
        let fail = |error: Error| TestCaseError::fail(format!("{meant:?}: {error}"));
        let mut arguments = Vec::new();
        let text = meant.written(&mut arguments);
        let filter = expression::filter(&schema, &text, &arguments).map_err(fail)?;
        let query = Query { filter, limit: 1_000, ..Query::default() };
        let (found, total) = runtime.block_on(async {
            users::select(&mut db.read().await.map_err(fail)?, app, &query).await.map_err(fail)
        })?;
        let found: Vec<_> = found.into_iter().map(|user| user.attributes).collect();
        let wanted: Vec<_> = all.iter().filter(|user| meant.holds(user)).cloned().collect();
        prop_assert_eq!(usize::try_from(total), Ok(wanted.len()));
        prop_assert_eq!(found, wanted, "{} {:?}", text, arguments);
        Ok(())
    });
    found.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn every_expression_finds_whom_it_means_on_sqlite() {
    every_expression_finds_whom_it_means(Kind::Sqlite);
}

#[test]
fn every_expression_finds_whom_it_means_on_postgres() {
    every_expression_finds_whom_it_means(Kind::Postgres);
}
