//! The data model and what app it is (contract, section 3).

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::with_schema;
use crate::both;
use crate::lab::{Lab, text};

both!(
    the_data_model_is_the_user_schema,
    a_model_that_is_known_is_not_sent_again,
    an_app_says_what_it_is,
);

async fn the_data_model_is_the_user_schema(lab: Lab) {
    with_schema(&lab).await;
    let model = lab.get("/datamodel.json").await;
    assert_eq!(model["app_user"], "user");
    let user = &model["models"]["user"];
    assert_eq!((&user["name"], &user["label"]), (&json!("user"), &json!("User")));
    assert_eq!(user["display"], "{name}");
    assert_eq!((&user["belongs_to"], &user["has_many"]), (&json!({}), &json!({})));
    let fields = user["fields"].as_object().expect("fields");
    let types: Vec<(&str, &str)> = fields
        .iter()
        .map(|(name, field)| {
            assert_eq!(field["name"], name.as_str());
            (name.as_str(), field["type"].as_str().expect("a type"))
        })
        .collect();
    let wanted = [
        ("active", "boolean"),
        ("age", "integer"),
        ("contract_end", "date"),
        ("email", "text"),
        ("name", "text"),
        ("rate", "number"),
        ("role", "single-choice"),
        ("seen", "datetime"),
    ];
    assert_eq!(types, wanted);
    let field = json!({ "name": "contract_end", "label": "Contract end", "type": "date" });
    assert_eq!(fields["contract_end"], field);
    let options = json!([
        { "key": "clerk", "display": "clerk" },
        { "key": "chef", "display": "chef" },
    ]);
    assert_eq!(fields["role"]["options"], options);
    lab.set(json!({ "user_schema": { "email": "text" } })).await;
    assert_eq!(lab.get("/datamodel").await["models"]["user"]["display"], "{email}");
    lab.set(json!({ "user_schema": { "staff_number": "integer" } })).await;
    assert_eq!(lab.get("/datamodel").await["models"]["user"]["display"], "{id}");
}

/// The status, the `ETag` and the body of the model for who sends this `If-None-Match`.
async fn ask(lab: &Lab, known: Option<&str>) -> (StatusCode, String, String) {
    let request = lab.api(Method::GET, "/datamodel.json");
    let request = match known {
        Some(known) => request.header("if-none-match", known),
        None => request,
    };
    let answer = request.send().await.expect("an answer");
    let tag = answer.headers()["etag"].to_str().expect("a text").to_owned();
    (answer.status(), tag, answer.text().await.expect("a text"))
}

async fn a_model_that_is_known_is_not_sent_again(lab: Lab) {
    let (status, tag, body) = ask(&lab, None).await;
    assert_eq!(status, StatusCode::OK);
    let model: Value = serde_json::from_str(&body).expect("JSON");
    let hash = text(&model["datamodel_hash"]);
    assert_eq!(tag, format!("\"{hash}\""));
    assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
    let known =
        [tag.clone(), hash, format!("W/{tag}"), format!("\"another\", {tag}"), "*".to_owned()];
    for known in known {
        let found = ask(&lab, Some(&known)).await;
        assert_eq!(found, (StatusCode::NOT_MODIFIED, tag.clone(), String::new()), "{known}");
    }
    for unknown in ["\"another\"", "", "\"\""] {
        let found = ask(&lab, Some(unknown)).await;
        assert_eq!(found, (StatusCode::OK, tag.clone(), body.clone()), "{unknown}");
    }
    with_schema(&lab).await;
    let (status, changed, _) = ask(&lab, Some(&tag)).await;
    assert_eq!(status, StatusCode::OK);
    assert_ne!(changed, tag);
    // Nothing that is no part of the model counts.
    lab.set(json!({ "multiple_devices_per_user": false })).await;
    assert_eq!(ask(&lab, Some(&changed)).await.0, StatusCode::NOT_MODIFIED);
    lab.set(json!({ "user_schema": { "name": "text", "email": "text" } })).await;
    assert_eq!(ask(&lab, Some(&tag)).await.0, StatusCode::NOT_MODIFIED, "the first model again");
}

async fn an_app_says_what_it_is(lab: Lab) {
    let model = lab.get("/datamodel").await;
    let wanted = json!({
        "id": lab.app,
        "name": "shop",
        "api": "v4",
        "server": { "name": "Reauth", "version": env!("CARGO_PKG_VERSION") },
        "datamodel_hash": model["datamodel_hash"],
        "app_id": lab.app,
        "label": "shop",
    });
    assert_eq!(lab.get("/info.json").await, wanted);
    assert_eq!(lab.get("/info").await, wanted);
}
