//! The OpenAPI document is made from the code, and the committed one is the same.

use reqwest::Method;

use crate::lab::{Kind, Lab, good};

#[test]
fn the_committed_document_is_up_to_date() {
    let committed = include_str!("../../../../../docs/openapi.json");
    let why = "run `cargo xtask openapi` and commit docs/openapi.json";
    assert!(reauth_server::openapi() == committed, "{why}");
}

#[tokio::test]
async fn the_served_document_is_the_same_and_knows_every_route() {
    let lab = Lab::new(Kind::Sqlite).await;
    let served = good(lab.bare(Method::GET, "/openapi.json")).await;
    let made: serde_json::Value = serde_json::from_str(&reauth_server::openapi()).expect("JSON");
    assert_eq!(served, made);
    let paths = served["paths"].as_object().expect("paths");
    for path in [
        "/check",
        "/api/v4/{app}/users/{user}/sessions/{session}/re-authenticate",
        "/api/v4/{app}/batch",
        "/device/{app}/enroll",
        "/admin/apps/{app}/tokens",
        "/metrics",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().expect("operations") {
            let text = operation["description"].as_str().or(operation["summary"].as_str());
            assert!(text.is_some_and(|text| !text.is_empty()), "{method} {path} is explained");
        }
    }
}
