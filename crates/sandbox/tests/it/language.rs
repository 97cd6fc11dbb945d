//! What a script can say: the language, the context, the globals.

use reauth_sandbox::{Job, Level, Outcome, compile};
use serde_json::{Value, json};

use super::{World, job, limits, run, run_within, sandbox, value};

#[tokio::test]
async fn run_gets_its_context_and_params_and_its_result_comes_back() {
    let source = "
        export async function run(params) {
            return { url: path.call(this, '/users'), token: this.backend.token, params,
                     region: process.env.REGION, same: this.env.REGION, path: process.env.PATH };
        }
        function path(rest) { return this.backend.url + rest; }";
    let done = |params: Value| async {
        let job = job("task.js", source, params);
        sandbox("sandbox_child").run(&job, &limits(), &World::default()).await.outcome
    };
    let Outcome::Done(json) = done(json!({ "days": 30 })).await else { panic!("it succeeds") };
    let value: Value = json.read().expect("a value");
    assert_eq!(value["url"], "http://api.test/api/v4/x/users");
    assert_eq!(value["token"], "rer_secret");
    assert_eq!(value["params"], json!({ "days": 30 }));
    assert_eq!((&value["region"], &value["same"]), (&json!("eu"), &json!("eu")));
    assert_eq!(value.get("path"), None, "the child has no environment");
    let Outcome::Done(json) = done(Value::Null).await else { panic!("it succeeds") };
    let value: Value = json.read().expect("a value");
    assert_eq!(value["params"], json!({}));
}

#[tokio::test]
async fn dates_follow_the_clock_of_the_server() {
    let source = "
        export async function run() {
            class Day extends Date { name() { return 'day'; } }
            const day = new Day();
            return {
                now: new Date().toISOString().slice(0, 16), called: typeof Date(),
                of: new Date(0).toISOString(), parsed: Date.parse('1970-01-02'),
                utc: Date.UTC(1970, 0, 2), is: new Date() instanceof Date,
                made: new Date().constructor === Date, day: day.name(), kind: day instanceof Day,
                goes_on: Date.now() - new Date().getTime() <= 1, replaced: replaced(),
            };
        }
        function replaced() {
            const real = Date.now;
            Date.now = () => real() + 1000;
            const ahead = Date.now() - new Date().getTime();
            Date.now = real;
            return ahead > 900;
        }";
    let now_ms = Some(1_777_788_720_000);
    let job = Job { now_ms, ..job("task.js", source, Value::Null) };
    let report = sandbox("sandbox_child").run(&job, &limits(), &World::default()).await;
    let Outcome::Done(json) = report.outcome else { panic!("{:?}", report.outcome) };
    let value: Value = json.read().expect("a value");
    let wanted = json!({ "now": "2026-05-03T06:12", "called": "string",
        "of": "1970-01-01T00:00:00.000Z", "parsed": 86_400_000, "utc": 86_400_000, "is": true,
        "made": true, "day": "day", "kind": true, "goes_on": true, "replaced": true });
    assert_eq!(value, wanted);
}

#[tokio::test]
async fn typescript_runs_as_it_is_written() {
    let source = "
        interface Params { days?: number }
        enum Kind { Old = 'old', New = 'new' }
        const pick = <T,>(list: T[], at: number): T => list[at]!;
        export async function run(this: { env: Record<string, string> }, params: Params) {
            return { kind: Kind.Old, second: pick([1, 2], 1), days: params.days ?? 30 } as const;
        }";
    let job = job("task.ts", source, json!({}));
    let report = sandbox("sandbox_child").run(&job, &limits(), &World::default()).await;
    let wanted = json!({ "kind": "old", "second": 2, "days": 30 });
    assert_eq!(report.outcome, Outcome::Done(wanted.into()));
}

#[tokio::test]
async fn a_throw_keeps_the_log_and_says_where() {
    let source = "export async function run() {
        console.log('one', { two: [3, 'four'], five: null });
        console.error(new TypeError('six').message);
        fail();
    }
    function fail() { throw new RangeError('too far'); }";
    let report = run_within(source, &limits()).await;
    let Outcome::Threw { message, stack } = &report.outcome else { panic!("{report:?}") };
    assert_eq!(message, "RangeError: too far");
    assert!(stack.contains("fail") && stack.contains("task.js:6"), "{stack}");
    let log: Vec<(Level, &str)> =
        report.log.iter().map(|line| (line.level, line.text.as_str())).collect();
    let first = "one { two: [3, \"four\"], five: null }";
    assert_eq!(log, [(Level::Log, first), (Level::Error, "six")]);
}

#[tokio::test]
async fn what_is_wrong_with_a_script_is_said() {
    for (source, wanted) in [
        ("export const go = 1", "does not export a function named run"),
        ("export const run = 7", "does not export a function named run"),
        ("throw new Error('early'); export function run() {}", "Error: early"),
        ("export function run() { throw { code: 7 } }", "thrown: { code: 7 }"),
        ("export async function run() { await Promise.reject('no') }", "thrown: \"no\""),
        ("export function run() { throw null }", "thrown: null"),
        ("export const run = () => Promise.reject(null)", "thrown: null"),
        (
            "export function run() { throw new Error('the disk is out of memory') }",
            "Error: the disk",
        ),
        ("export async function run() { await import('fs') }", "is no file of this task"),
        ("export function run() { return 10n }", "TypeError"),
        ("export async function run() { await new Promise(() => {}) }", "can never end"),
        ("await new Promise(() => {}); export function run() {}", "can never end"),
        ("export function run() { return missing }", "ReferenceError"),
    ] {
        let outcome = run(source).await;
        let Outcome::Threw { message, .. } = &outcome else { panic!("{outcome:?}: {source}") };
        assert!(message.contains(wanted), "{message}: {source}");
    }
}

#[tokio::test]
async fn what_nobody_handles_ends_the_run() {
    for source in [
        "export async function run() { forget(); return 1 }
         async function forget() { await null; throw new RangeError('lost') }",
        "export async function run() { Promise.reject(new RangeError('lost')); return 1 }",
        "Promise.reject(new RangeError('lost')); export function run() { return 1 }",
        "export async function run() {
            const late = Promise.reject(new RangeError('lost'));
            await new Promise((go) => setTimeout(go, 5)); late.catch(() => {}) }",
        "export async function run() {
            fetch('http://other.test/').catch(() => { throw new RangeError('lost') });
            await new Promise(() => setInterval(() => {}, 10)) }",
    ] {
        let outcome = run(source).await;
        let Outcome::Threw { message, stack } = &outcome else { panic!("{outcome:?}: {source}") };
        assert_eq!(message, "RangeError: lost", "{source}");
        assert!(stack.contains("task.js:"), "{stack}: {source}");
    }
    let handled = "
        const late = Promise.reject(new Error('late'));
        await null;
        const all = await Promise.allSettled([late, Promise.reject(1)]);
        return [all.length, await late.catch((error) => error.message)];";
    assert_eq!(value(handled).await, json!([2, "late"]));
}

#[tokio::test]
async fn a_run_that_leaves_requests_behind_says_so() {
    let source = "export async function run() { fetch('http://api.test/never'); return 1 }";
    let report = run_within(source, &limits()).await;
    assert_eq!(report.outcome, Outcome::Done(json!(1).into()));
    let [line] = report.log.as_slice() else { panic!("{report:?}") };
    assert_eq!(line.level, Level::Warn);
    assert!(line.text.starts_with("1 request was still under way"), "{}", line.text);
}

#[tokio::test]
async fn answers_are_heard_between_timers() {
    let body = "
        let done = false;
        fetch('http://api.test/slow').then(() => { done = true });
        while (!done) await new Promise((go) => setTimeout(go, 0));
        return done;";
    assert_eq!(value(body).await, json!(true));
}

#[tokio::test]
async fn half_a_character_is_told_as_one_that_is_missing() {
    let body = r"
        const half = 'Ann 😀'.slice(0, 5);
        const answer = await fetch('http://api.test/echo', { method: 'POST', body: half });
        return [half, { [half]: '\\ud83d' + half }, (await answer.json()).body, '😀'];";
    let wanted =
        json!(["Ann \u{fffd}", { "Ann \u{fffd}": "\\ud83dAnn \u{fffd}" }, "Ann \u{fffd}", "😀"]);
    assert_eq!(value(body).await, wanted);
}

#[tokio::test]
async fn fetch_goes_through_the_host() {
    let source = "export async function run() {
        const echo = await fetch(`${this.backend.url}/echo`, {
            method: 'post', headers: { Authorization: `Token ${this.backend.token}` },
            body: JSON.stringify({ ä: 1 }) });
        const nothing = await fetch('http://api.test/nothing');
        let empty; try { await nothing.json(); } catch (error) { empty = error.name; }
        let refused; try { await fetch('http://other.test/'); } catch (error) {
            refused = `${error.name}: ${error.message}`; }
        let wrong; try { await fetch('/relative'); } catch (error) { wrong = error.name; }
        const broken = await fetch('http://api.test/broken');
        return { echo: await echo.json(), type: echo.headers.get('Content-Type'),
                 nothing: [nothing.status, nothing.statusText, nothing.ok, empty],
                 refused, wrong, broken: [broken.status, broken.ok] };
    }";
    let world = World::default();
    let job = job("task.js", source, Value::Null);
    let report = sandbox("sandbox_child").run(&job, &limits(), &world).await;
    let wanted = json!({
        "echo": { "body": "{\"ä\":1}" }, "type": "application/json",
        "nothing": [204, "No Content", true, "SyntaxError"],
        "refused": "TypeError: this world has no such place", "wrong": "TypeError",
        "broken": [500, false],
    });
    assert_eq!(report.outcome, Outcome::Done(wanted.into()));
    let asked = world.asked.lock().expect("the list");
    let headers = &asked[0].headers;
    assert_eq!(asked[0].method, "POST");
    assert!(headers.contains(&("authorization".into(), "Token rer_secret".into())), "{headers:?}");
    assert!(headers.iter().any(|(name, _)| name == "content-type"), "{headers:?}");
}

#[tokio::test]
async fn requests_go_on_at_the_same_time_and_can_be_given_up() {
    let body = "
        const began = performance.now();
        const all = await Promise.all(Array.from({ length: 8 }, () =>
            fetch('http://api.test/slow').then((answer) => answer.json())));
        const took = performance.now() - began;
        const giveUp = new AbortController();
        setTimeout(() => giveUp.abort(), 5);
        let name; try { await fetch('http://api.test/never', { signal: giveUp.signal }); }
        catch (error) { name = error.name; }
        return [all.length, all[0], took < 700, name];";
    assert_eq!(value(body).await, json!([8, "slow", true, "AbortError"]));
}

#[tokio::test]
async fn timers_fire_in_order() {
    let body = "
        const order = [];
        setTimeout(() => order.push('late'), 20);
        setTimeout((word) => order.push(word), 5, 'soon');
        queueMicrotask(() => order.push('micro'));
        const gone = setTimeout(() => order.push('gone'), 1);
        clearTimeout(gone);
        await new Promise((done) => {
            let count = 0;
            const id = setInterval(() => {
                order.push(count += 1);
                if (count === 3) { clearInterval(id); done(); }
            }, 30);
        });
        return order;";
    assert_eq!(value(body).await, json!(["micro", "soon", "late", 1, 2, 3]));
}

#[tokio::test]
async fn urls_are_read_as_browsers_read_them() {
    let body = "
        const url = new URL('../a b?x=1&y=%C3%A4#z', 'HTTP://User@Example.com:80/c/d');
        url.searchParams.append('q', 'a&b c');
        const query = new URLSearchParams('a=1&b=2&a=3');
        query.set('a', '9'); query.delete('b');
        let bad; try { new URL('nonsense'); } catch (error) { bad = error.name; }
        url.hash = '';
        return [url.href, url.host, url.searchParams.get('y'), query.toString(),
                [...new URLSearchParams({ k: 'v w' })].join(), bad, URL.canParse('x:y'),
                JSON.stringify({ url: new URL('https://x.test') })];";
    let wanted = json!([
        "http://User@example.com/a%20b?x=1&y=%C3%A4&q=a%26b+c",
        "example.com",
        "ä",
        "a=9",
        "k,v w",
        "TypeError",
        true,
        "{\"url\":\"https://x.test/\"}",
    ]);
    assert_eq!(value(body).await, wanted);
}

#[tokio::test]
async fn text_bytes_and_clones_are_right() {
    let body = "
        const bytes = new TextEncoder().encode('aä€😀');
        const back = new TextDecoder().decode(bytes);
        let fatal; try { new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array([255])); }
        catch (error) { fatal = error.name; }
        const original = { at: new Date(0), list: [1, { two: 2 }], map: new Map([[1, 'x']]) };
        original.self = original;
        const copy = structuredClone(original);
        const uuid = crypto.randomUUID();
        return [bytes.length, back, fatal, btoa('\\xe4b'), atob('5GI='), copy.self === copy,
                copy.list[1] !== original.list[1], copy.map.get(1), copy.at.getTime(),
                /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(uuid),
                crypto.getRandomValues(new Uint8Array(4)).length, uuid !== crypto.randomUUID()];";
    let wanted = json!([10, "aä€😀", "TypeError", "5GI=", "äb", true, true, "x", 0, true, 4, true]);
    assert_eq!(value(body).await, wanted);
}

#[tokio::test]
async fn the_console_shows_what_people_want_to_read() {
    let source = "export function run() {
        const loop = { name: 'x' }; loop.self = loop;
        class Point { constructor() { this.x = 1; } }
        console.info(loop, new Point(), [undefined, null, 1n, Symbol('s')], new Date(0));
        console.warn('%', new Map([['a', new Set([1])]]), () => 1, function named() {});
        console.debug(new Error('bad', { cause: 'why' }));
    }";
    let report = run_within(source, &limits()).await;
    let text: Vec<&str> = report.log.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(
        text[0],
        "{ name: \"x\", self: [circular] } Point { x: 1 } \
         [undefined, null, 1n, Symbol(s)] 1970-01-01T00:00:00.000Z"
    );
    let second = "% Map { \"a\" => Set { 1 } } [function anonymous] [function named]";
    assert_eq!(text[1], second);
    assert!(text[2].starts_with("Error: bad") && text[2].contains("caused by \"why\""), "{text:?}");
}

#[tokio::test]
async fn files_of_the_task_can_be_imported_when_they_are_needed() {
    let main = "
        export async function run({ names }) {
            const told = [];
            for (const name of names) {
                try {
                    const file = await import(name);
                    told.push(file.default ?? file.name);
                } catch (error) {
                    told.push(`${error.name}: ${error.message}`);
                }
            }
            const [one, again] = await Promise.all([import('./lib/a.ts'), import('./lib/a')]);
            return [told, one === again, one.count];
        }";
    let names = [
        "./lib/a.ts",
        "./lib/late",
        "./lib/broken.js",
        "./missing.ts",
        "../main.js",
        "lib/a.ts",
        "/etc/passwd",
        "file:///etc/passwd",
        "data:text/javascript,export default 1",
        "http://api.test/a.js",
        "std",
        "os",
        "qjs:std",
        "reauth:test",
        "reauth:warm-up",
        "",
    ];
    let files = [
        ("main.js", main),
        (
            "lib/a.ts",
            "let made = 0; made += 1; export const count: number = made;
            export const name = 'a';",
        ),
        ("lib/late.ts", "const { name } = await import('./a'); export default name + '!';"),
        ("lib/broken.js", "throw new RangeError('broken')"),
    ];
    let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let script = compile("main.js", &files.into()).expect("it compiles").script;
    let job = Job { script, ..job("main.js", main, json!({ "names": names })) };
    let report = sandbox("sandbox_child").run(&job, &limits(), &World::default()).await;
    let Outcome::Done(json) = report.outcome else { panic!("{:?}", report.outcome) };
    let value: Value = json.read().expect("a value");
    let none =
        |name: &&str| format!("TypeError: {name} is no file of this task: bundle it into the task");
    let told: Vec<String> = ["a", "a!", "RangeError: broken"]
        .map(str::to_owned)
        .into_iter()
        .chain(names[3..].iter().map(none))
        .collect();
    assert_eq!(value, json!([told, true, 1]));
}
