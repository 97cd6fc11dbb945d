//! Devices, and the check that must fail closed.

use reauth_sdk::{Checked, Client, Device, DeviceId, Enrolment, Error};

use crate::peer::{APP, Peer, full, json};

const VALID: &str = "Reauth-App: a\r\nReauth-User: u\r\nReauth-Session: s\r\n\
                     Reauth-Authenticated-At: 2026-05-01T08:00:00Z\r\n";

#[tokio::test]
async fn a_device_enrols_connects_and_signs_out() {
    let enrolled = r#"{"user_id":"u","session_id":"s","session_token":"res_secret",
        "state":"ENROLLED","ends_at":"2026-05-31T08:00:00Z"}"#;
    let connected = r#"{"state":"ENROLLED","ends_at":null,"server_time":"2026-05-01T08:00:00Z"}"#;
    let answers = vec![json(200, enrolled), json(200, connected), full(204, "", "")];
    let peer = Peer::new(answers).await;
    let enrolment = Enrolment {
        authentication_token: "ree_once".into(),
        device: DeviceId { id: "phone".into() },
        ..Enrolment::default()
    };
    let (device, enrolled) =
        Device::enroll(&Client::new(&peer.url, "").unwrap(), APP, &enrolment).await.unwrap();
    assert_eq!(enrolled.session_id, "s");
    assert_eq!(device.connect().await.unwrap().ends_at, None);
    device.sign_out().await.unwrap();

    let asked = peer.asked();
    assert_eq!(asked[0].line, format!("POST /device/{APP}/enroll"));
    assert_eq!(asked[0].authorization, None);
    assert_eq!(asked[0].body, r#"{"authentication_token":"ree_once","device":{"id":"phone"}}"#);
    assert_eq!(asked[1].line, format!("POST /device/{APP}/connect"));
    assert_eq!(asked[1].authorization.as_deref(), Some("Bearer res_secret"));
    assert_eq!(asked[2].line, format!("POST /device/{APP}/sign-out"));
    let shown = format!("{enrolment:?} {enrolled:?} {device:?}");
    assert!(!shown.contains("ree_") && !shown.contains("res_"), "{shown}");
}

#[tokio::test]
async fn an_ended_session_says_its_state_and_reason() {
    let body = r#"{"type":"SIGN_IN_AGAIN","title":"t","detail":"the device was told to wipe",
        "state":"RESET","because":"wipe"}"#;
    let peer = Peer::answering(json(401, body)).await;
    let device = Device::new(&peer.url, APP, "res_old").unwrap();
    let error = device.connect().await.unwrap_err();
    let Error::SignInAgain { state, because, .. } = &error else { panic!("{error:?}") };
    assert_eq!((state.as_str(), because.as_str()), ("RESET", "wipe"));
    assert!(error.to_string().contains("wipe the data"), "{error}");
}

#[tokio::test]
async fn a_connect_in_another_state_than_signed_in_is_no_success() {
    let body = r#"{"state":"LOCKED","ends_at":null,"server_time":null}"#;
    let peer = Peer::answering(json(200, body)).await;
    let device = Device::new(&peer.url, APP, "res_old").unwrap();
    assert!(device.connect().await.is_err());
}

#[tokio::test]
async fn a_valid_check_says_who_and_until_when() {
    let ends = format!("{VALID}Reauth-Ends-At: 2026-05-31T08:00:00Z\r\n");
    for (headers, end) in [(VALID, None), (ends.as_str(), Some("2026-05-31T08:00:00Z"))] {
        let peer = Peer::answering(full(200, headers, "")).await;
        let checked = peer.client().check("res_phone").await.unwrap();
        let Checked::Valid { user, ends_at, .. } = checked else { panic!("{checked:?}") };
        assert_eq!((user.as_str(), ends_at), ("u", end.map(|end| end.parse().unwrap())));
        assert_eq!(peer.asked()[0].authorization.as_deref(), Some("Bearer res_phone"));
    }
}

#[tokio::test]
async fn a_refused_check_says_why() {
    let header = "WWW-Authenticate: Bearer realm=\"reauth\", \
                  error=\"insufficient_user_authentication\", \
                  error_description=\"too old\", max_age=\"2592000\"\r\n";
    let peer = Peer::answering(full(401, header, "")).await;
    let checked = peer.client().check("res_phone").await.unwrap();
    let max_age = Some("30d".parse().unwrap());
    assert_eq!(checked, Checked::Refused { because: "too old".into(), max_age });
}

#[tokio::test]
async fn a_check_that_was_not_answered_by_reauth_lets_nobody_in() {
    let no_user = VALID.replace("Reauth-User: u\r\n", "");
    let bad_end = format!("{VALID}Reauth-Ends-At: soon\r\n");
    let answers = [
        full(200, "", "<html>welcome</html>"),
        full(200, &no_user, ""),
        full(200, &bad_end, ""),
        full(204, VALID, ""),
        full(302, "Location: /login\r\n", ""),
        full(401, "WWW-Authenticate: Basic\r\n", ""),
        full(500, "", ""),
        full(503, "Retry-After: 0\r\n", ""),
    ];
    for answer in answers {
        let peer = Peer::new(vec![answer.clone(), answer.clone()]).await;
        let checked = peer.client().check("res_phone").await;
        assert!(checked.is_err(), "{answer} was read as {checked:?}");
        assert_eq!(peer.lines().len(), 1, "a check is not tried again");
    }
}
