//! How answers are read: refusals, retries, and what is no answer of Reauth.

use reauth_sdk::{Client, Error};

use crate::peer::{Peer, full, json};

const READY: &str = "GET /health/ready";

#[tokio::test]
async fn a_refusal_keeps_what_the_server_said() {
    let body = r#"{"type":"INVALID_VALUE","title":"A value is wrong",
        "detail":"name: must have 1 to 100 characters","see":"/errors","field":"name"}"#;
    let peer = Peer::answering(json(422, body)).await;
    let error = peer.app().read().await.unwrap_err();
    let Error::Answer { status, kind, field, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*status, kind.as_str(), field.as_deref()), (422, "INVALID_VALUE", Some("name")));
    assert_eq!(error.to_string(), "name: must have 1 to 100 characters");
    assert!(!error.is_denied() && !error.is_not_found());
}

#[tokio::test]
async fn a_refused_token_is_answered_with_what_to_do() {
    let body = r#"{"type":"PERMISSION_DENIED","title":"t","detail":"users:write is missing"}"#;
    let peer = Peer::answering(json(403, body)).await;
    let error = peer.app().unlock("ann", None).await.unwrap_err();
    assert!(error.is_denied());
    let text = "users:write is missing (use a token that has this scope)";
    assert_eq!(error.to_string(), text);
    assert_eq!(peer.asked()[0].authorization.as_deref(), Some("Bearer rea_token"));
}

#[tokio::test]
async fn reading_is_tried_again_three_times_and_then_given_up() {
    let busy = full(503, "Retry-After: 0\r\n", "{}");
    let peer = Peer::new(vec![busy.clone(), busy.clone(), json(200, "{}")]).await;
    peer.client().ready().await.unwrap();
    assert_eq!(peer.lines(), [READY; 3]);

    let peer = Peer::new(vec![busy; 4]).await;
    let error = peer.client().ready().await.unwrap_err();
    assert_eq!(error, Error::NotJson { status: 503 });
    assert_eq!(peer.lines(), [READY; 4]);
}

#[tokio::test]
async fn a_change_is_never_sent_twice() {
    let body = r#"{"type":"TOO_MANY_REQUESTS","title":"Too much at once","detail":""}"#;
    let peer = Peer::new(vec![full(429, "Retry-After: 0\r\n", body); 2]).await;
    let error = peer.app().lock("ann", None).await.unwrap_err();
    assert_eq!(error.what(), "Too much at once");
    assert_eq!(peer.lines().len(), 1);
}

#[tokio::test]
async fn whoever_is_to_wait_for_long_is_told_at_once() {
    let far = "Retry-After: Sun, 03 May 2026 07:12:00 GMT\r\n";
    for header in ["Retry-After: 3600\r\n", far] {
        let peer = Peer::new(vec![full(503, header, ""); 2]).await;
        assert!(peer.client().ready().await.is_err());
        assert_eq!(peer.lines().len(), 1, "{header}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_token() {
    let location = "Location: http://127.0.0.1:1/\r\n";
    let peer = Peer::new(vec![full(302, location, ""); 2]).await;
    let error = peer.app().lock("ann", None).await.unwrap_err();
    assert_eq!(error, Error::NotJson { status: 302 });
    assert!(error.to_string().contains("redirects"), "{error}");
    assert_eq!(peer.lines().len(), 1);
}

#[tokio::test]
async fn what_is_no_answer_of_reauth_is_said_to_be_none() {
    let peer = Peer::answering(full(200, "", "<html>welcome</html>")).await;
    assert_eq!(peer.app().read().await.unwrap_err(), Error::NotJson { status: 200 });
    let peer = Peer::answering(full(502, "", "<html>bad gateway</html>")).await;
    assert_eq!(peer.app().read().await.unwrap_err(), Error::NotJson { status: 502 });
    let peer = Peer::answering(json(200, r#"{"id":7}"#)).await;
    let error = peer.app().read().await.unwrap_err();
    assert!(matches!(error, Error::OtherShape { .. }), "{error:?}");
}

#[tokio::test]
async fn nobody_there_names_the_url_and_not_the_token() {
    let peer = Peer::new(Vec::new()).await;
    tokio::task::yield_now().await;
    let client = Client::new(&peer.url, "reo_secret").unwrap();
    let error = client.ready().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&peer.url) && !text.contains("reo_secret"), "{text}");
    assert!(!text.contains("carried out"), "nothing was sent: {text}");
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_may_have_been_carried_out() {
    let peer = Peer::answering(String::new()).await;
    let error = peer.app().lock("ann", None).await.unwrap_err();
    assert!(error.to_string().contains("may have been carried out"), "{error}");
}

#[tokio::test]
async fn the_servers_clock_tells_the_time() {
    let peer = Peer::answering(json(200, "{}")).await;
    let client = peer.client();
    assert_eq!(client.now().await.unwrap().to_string(), "2026-05-03T06:12:00Z");
    client.now().await.unwrap();
    assert_eq!(peer.lines(), ["GET /health/live"]);
}
