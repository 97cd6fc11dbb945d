//! How a server starts, refuses to start, and ends.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use crate::{Kind, Shop, config_file, error_of, reauth, text};

#[test]
fn a_server_says_when_it_is_ready_and_drains_on_sigterm() {
    let shop = Shop::new(Kind::Sqlite);
    let mut serving = shop.serve();
    let apps = serving.json(&shop.operator, &["app", "list"]);
    assert_eq!(apps, serde_json::json!([]));
    serving.terminate();
    let mode = shop.data().metadata().expect("a directory").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// What a list of processes shows of a server's children: their words, and their short names.
fn children_of(server: u32) -> Vec<(String, String)> {
    let processes = std::fs::read_dir("/proc").expect("a list of processes");
    let mut all = Vec::new();
    for folder in processes.filter_map(|entry| Some(entry.ok()?.path())) {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let is_child = read("status").lines().any(|line| line == format!("PPid:\t{server}"));
        if is_child {
            all.push((read("cmdline").replace('\0', " "), read("comm").trim_end().to_owned()));
        }
    }
    all
}

#[test]
fn children_are_known_by_their_name_in_a_list_of_processes() {
    let shop = Shop::new(Kind::Sqlite);
    let serving = shop.serve();
    let wanted = ("reauth sandbox-child ".to_owned(), "reauth-sandbox".to_owned());
    let mut found = Vec::new();
    // They are made ready when the server has begun; before each is itself, it is a server.
    for _ in 0..100 {
        found = children_of(serving.process.id());
        if !found.is_empty() && found.iter().all(|child| *child == wanted) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{found:?}");
}

#[test]
fn the_operators_token_is_shown_once() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let shop = Shop::new(kind);
        assert!(shop.operator.starts_with("reo_"));
        let again = shop.store(reauth().arg("init")).output().expect("init runs");
        assert!(error_of(&again).contains("already"));
    }
}

#[test]
fn what_cannot_be_meant_is_refused_in_one_line_that_says_what_to_change() {
    let shop = Shop::new(Kind::Sqlite);
    for (config, wanted) in [
        ("[apps]\nmax_session_age = 0\n", "max_session_age"),
        ("[apps]\nmax_sesion_age = \"30d\"\n", "max_sesion_age"),
        ("listen = 7\n", "line 1"),
        ("[tasks]\nfetch_allowed = [\"example.com\"]\n", "fetch_allowed"),
        ("database = \"mysql://x\"\n", "PostgreSQL"),
    ] {
        let file = config_file(shop.dir.path(), config);
        let mut command = reauth();
        command.arg("serve").arg("--data").arg(shop.data()).arg("--config").arg(file);
        let error = error_of(&command.output().expect("serve runs"));
        assert!(error.contains(wanted), "{config}: {error}");
        let lines = error.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(lines, 1, "{error}");
    }
    let empty = shop.dir.path().join("empty");
    let mut command = reauth();
    command.arg("serve").arg("--data").arg(&empty).args(["--listen", "127.0.0.1:0"]);
    assert!(error_of(&command.output().expect("serve runs")).contains("reauth init"));
    let file = shop.dir.path().join("file");
    std::fs::write(&file, "x").expect("a file");
    let mut command = reauth();
    command.arg("serve").arg("--data").arg(&file);
    assert!(error_of(&command.output().expect("serve runs")).contains("data directory"));
}

#[test]
fn a_second_server_refuses_to_start() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let shop = Shop::new(kind);
        let _serving = shop.serve();
        let mut command = reauth();
        shop.store(command.arg("serve")).args(["--listen", "127.0.0.1:0"]);
        let error = error_of(&command.output().expect("serve runs"));
        assert!(error.contains("another server"), "{kind:?}: {error}");
    }
}

#[test]
fn an_open_request_is_answered_before_the_server_ends() {
    use std::io::{Read as _, Write as _};
    let shop = Shop::new(Kind::Sqlite);
    let mut serving = shop.serve();
    let address = serving.url.strip_prefix("http://").expect("a URL").to_owned();
    let mut client = std::net::TcpStream::connect(address).expect("a connection");
    let body = r#"{"name":"till"}"#;
    let (first, rest) = body.split_at(5);
    let token = &shop.operator;
    write!(
        client,
        "POST /admin/apps HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{first}",
        body.len()
    )
    .expect("half of it is sent");
    // Another request is answered: so the first is being read.
    serving.json(&shop.operator, &["app", "list"]);
    let sent = std::thread::spawn(move || {
        // When nobody listens any more, the server is stopping.
        let address = client.peer_addr().expect("an address");
        while std::net::TcpStream::connect(address).is_ok() {
            std::thread::yield_now();
        }
        client.write_all(rest.as_bytes()).expect("the rest is sent");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        answer
    });
    serving.terminate();
    let answer = sent.join().expect("the client ends");
    assert!(answer.starts_with("HTTP/1.1 201 Created"), "{answer}");
}

#[test]
fn the_log_holds_no_secret() {
    let shop = Shop::new(Kind::Sqlite);
    let mut command = reauth();
    shop.store(command.arg("serve")).args(["--listen", "127.0.0.1:0", "--log", "json"]);
    command.env("REAUTH_LOG", "trace");
    let log = shop.dir.path().join("log");
    let file = std::fs::File::create(&log).expect("a file");
    let command = command.stdout(std::process::Stdio::piped()).stderr(file);
    let mut process = command.spawn().expect("serve runs");
    let mut line = String::new();
    let stdout = process.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    let ready: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let mut verb = reauth();
    verb.env("REAUTH_URL", text(&ready["url"])).env("REAUTH_TOKEN", &shop.operator);
    let made = verb.args(["app", "create", "Field", "--json"]).output().expect("it runs");
    assert!(made.status.success());
    let app = text(&crate::json(&made)["id"]);
    let url = text(&ready["url"]);
    let asked = |words: &[&str]| {
        let mut verb = reauth();
        verb.env("REAUTH_URL", &url).env("REAUTH_TOKEN", &shop.operator).args(words);
        crate::json(&verb.arg("--json").output().expect("it runs"))
    };
    let ann = text(&asked(&["user", "create", "--name", "Ann"])["id"]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = reauth_sdk::Client::new(&url, &shop.operator).expect("a client");
    let issued = text(&asked(&["user", "token", &ann])["token"]);
    let enrolment = reauth_sdk::Enrolment {
        authentication_token: issued.clone(),
        device: reauth_sdk::DeviceId { id: "phone".to_owned() },
        label: None,
        container: None,
        runtime: None,
    };
    let enrolled = reauth_sdk::Device::enroll(&client, &app, &enrolment);
    let (_, enrolled) = runtime.block_on(enrolled).expect("it is enrolled");
    let secret = enrolled.session_token;
    let checked = runtime.block_on(client.check(&secret)).expect("an answer");
    assert!(matches!(checked, reauth_sdk::Checked::Valid { .. }));
    process.kill().expect("our own process");
    process.wait().expect("it ends");
    let log = std::fs::read_to_string(log).expect("a log");
    if let Some(line) = log.lines().find(|line| line.contains(&secret) || line.contains(&issued)) {
        panic!("the log holds a secret: {line}");
    }
    for file in std::fs::read_dir(shop.data()).expect("the directory").flatten() {
        let bytes = std::fs::read(file.path()).expect("a file");
        for secret in [&secret, &issued, &shop.operator] {
            let is_in = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!is_in, "a secret is in {}", file.path().display());
        }
    }
    assert!(log.contains("\"status\":201") && log.contains("/admin/apps"), "{log}");
    assert!(!log.contains(&shop.operator) && !log.contains("reo_"), "the log holds the token");
}
