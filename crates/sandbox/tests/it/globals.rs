//! The globals that a browser or Node.js has too, where people rely on their details.

use reauth_sandbox::{Host, Level, Outcome, Request, Response};
use serde_json::{Value, json};

use super::{job, limits, run, run_within, sandbox, value};

const HEX: &str = "const hex = (buffer) => Array.from(new Uint8Array(buffer),
        (byte) => byte.toString(16).padStart(2, '0')).join('');";

#[tokio::test]
async fn digests_are_those_of_the_standard() {
    let body = format!(
        "{HEX}
        const abc = new TextEncoder().encode('abc'), found = [];
        for (const name of ['SHA-1', 'sha-256', {{ name: 'SHA-384' }}, 'SHA-512']) {{
            found.push(hex(await crypto.subtle.digest(name, abc)).slice(0, 16));
        }}
        const bytes = new Uint8Array([0, 128, 255]);
        found.push(hex(await crypto.subtle.digest('SHA-256', bytes.buffer)));
        for (const wrong of [['MD5', abc], ['SHA-256', 'abc']]) {{
            await crypto.subtle.digest(...wrong).catch((error) => found.push(error.name));
        }}
        return found;"
    );
    let wanted = json!([
        "a9993e364706816a",
        "ba7816bf8f01cfea",
        "cb00753f45a35e8b",
        "ddaf35a193617aba",
        "5240672d7b51756b829ad0ef8d9468b7a078afa2f410484fd3892dab47becb72",
        "NotSupportedError",
        "TypeError",
    ]);
    assert_eq!(value(&body).await, wanted);
}

#[tokio::test]
async fn hmac_signs_and_verifies() {
    // RFC 4231, case 2; RFC 2202, case 2.
    let body = format!(
        "{HEX}
        const bytes = (text) => new TextEncoder().encode(text);
        const data = bytes('what do ya want for nothing?'), failed = [];
        const key = (hash, extractable, usages) => crypto.subtle.importKey('raw', bytes('Jefe'),
            {{ name: 'HMAC', hash }}, extractable, usages);
        const both = await key('SHA-256', true, ['sign', 'verify']);
        const tag = await crypto.subtle.sign('HMAC', both, data);
        const wrong = new Uint8Array(tag.slice(0));
        wrong[31] ^= 1;
        const old = await key('SHA-1', false, ['sign']);
        for (const attempt of [() => crypto.subtle.exportKey('raw', old),
            () => crypto.subtle.verify('HMAC', old, tag, data), () => key('SHA-1', false, []),
            () => key('MD5', false, ['sign']), () => crypto.subtle.sign('HMAC', {{}}, data)]) {{
            await attempt().catch((error) => failed.push(error.name));
        }}
        const long = {{ name: 'HMAC', hash: 'SHA-512' }};
        const made = await crypto.subtle.generateKey(long, true, ['sign']);
        const legacy = hex(await crypto.subtle.sign('HMAC', old, data));
        return [hex(tag).slice(0, 16), legacy.slice(0, 16),
                await crypto.subtle.verify('HMAC', both, tag, data),
                await crypto.subtle.verify('HMAC', both, wrong, data),
                await crypto.subtle.verify('HMAC', both, tag.slice(0, 31), data),
                hex(await crypto.subtle.exportKey('raw', both)), made.algorithm.length,
                failed.join()];"
    );
    let failed = "InvalidAccessError,InvalidAccessError,SyntaxError,NotSupportedError,TypeError";
    let wanted = json!([
        "5bdcc146bf60754e",
        "effcdf6ae5eb2fa2",
        true,
        false,
        false,
        "4a656665",
        1024,
        failed
    ]);
    assert_eq!(value(&body).await, wanted);
}

/// A world in which every address has moved, and cookies are given.
struct Moved;

impl Host for Moved {
    async fn fetch(&self, request: Request) -> Result<Response, String> {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let is_there = request.url.contains("/there");
        Ok(Response {
            status: if is_there { 999 } else { 200 },
            status_text: "OK".into(),
            url: "http://api.test/there".into(),
            headers: vec![
                header("set-cookie", "a=1"),
                header("set-cookie", "b=2"),
                header("x-name", "Ünal €"),
                header("x-two", "1"),
                header("x-two", "2"),
            ],
            body: "\u{feff}{}".as_bytes().to_vec(),
        })
    }
}

#[tokio::test]
async fn answers_are_read_as_they_came() {
    let source = "export async function run() {
        const moved = await fetch('http://api.test/here#top'), copy = moved.clone();
        const there = await fetch(new Request('http://api.test/there#top'));
        const text = await moved.text();
        let twice; try { await moved.text(); } catch (error) { twice = error.name; }
        return { moved: [moved.redirected, moved.url, moved.bodyUsed], text, twice,
                 copy: await copy.json(), there: [there.redirected, there.status, there.ok],
                 cookies: moved.headers.getSetCookie(), two: moved.headers.get('X-Two'),
                 name: copy.headers.get('x-name') };
    }";
    let job = job("task.js", source, Value::Null);
    let report = sandbox("sandbox_child").run(&job, &limits(), &Moved).await;
    let wanted = json!({ "moved": [true, "http://api.test/there", true], "text": "{}",
        "twice": "TypeError", "copy": {}, "there": [false, 999, false],
        "cookies": ["a=1", "b=2"], "two": "1, 2", "name": "Ünal €" });
    assert_eq!(report.outcome, Outcome::Done(wanted.into()));
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    for (code, wanted) in [
        ("fetch('http://api.test/', { body: 'x' })", "GET has no body"),
        ("fetch('http://api.test/', { method: 'TRACE' })", "no method"),
        ("fetch('http://api.test/', { redirect: 'never' })", "redirect is"),
        ("fetch('http://ann:secret@api.test/')", "credentials"),
        ("fetch('http://api.test/', { headers: { 'a b': '1' } })", "no header name"),
        ("fetch('http://api.test/', { headers: { a: '1\\n2' } })", "one line"),
        ("fetch('http://api.test/', { signal: {} })", "AbortSignal"),
        ("new Response('x', { status: 204 })", "no body"),
        ("new Response('x', { status: 99 })", "200 to 599"),
    ] {
        let outcome = run(&format!("export async function run() {{ await {code} }}")).await;
        let Outcome::Threw { message, .. } = &outcome else { panic!("{outcome:?}: {code}") };
        assert!(message.contains(wanted), "{message}: {code}");
    }
}

#[tokio::test]
async fn what_is_aborted_says_why() {
    let body = "
        const names = [];
        const note = (promise) => promise.catch((error) => names.push(error.name ?? error));
        const never = (signal) => note(fetch('http://api.test/never', { signal }));
        const user = new AbortController();
        user.signal.onabort = (event) => names.push(event.target === user.signal);
        const listener = { handleEvent: () => names.push('once') };
        user.signal.addEventListener('abort', listener, { once: true });
        await never(AbortSignal.timeout(5));
        await never(AbortSignal.abort('given up'));
        setTimeout(() => user.abort(), 5);
        await never(AbortSignal.any([user.signal, AbortSignal.timeout(60_000)]));
        user.abort();
        try { user.signal.throwIfAborted(); } catch (error) { names.push(error.code); }
        return names;";
    let wanted = json!(["TimeoutError", "given up", true, "once", "AbortError", 20]);
    assert_eq!(value(body).await, wanted);
}

#[tokio::test]
async fn what_nobody_catches_ends_the_run() {
    for source in [
        "queueMicrotask(() => { throw new RangeError('lost') })",
        "setTimeout(() => { throw new RangeError('lost') }, 1)",
        "new AbortController().signal; const target = new EventTarget();
         target.addEventListener('x', () => { throw new RangeError('lost') });
         target.dispatchEvent(new Event('x'))",
    ] {
        let source =
            format!("export async function run() {{ {source}; await new Promise(() => {{}}) }}");
        let outcome = run(&source).await;
        let Outcome::Threw { message, .. } = &outcome else { panic!("{outcome:?}: {source}") };
        assert_eq!(message, "RangeError: lost", "{source}");
    }
}

#[tokio::test]
async fn clones_keep_shapes_and_circles() {
    let body = "
        const buffer = new Uint8Array([1, 2, 3, 4]).buffer;
        const original = { view: new Uint16Array(buffer, 2, 1), whole: new DataView(buffer),
            error: new RangeError('far', { cause: { deep: true } }), pattern: /a/gi,
            keys: new Map([[{ k: 1 }, new Set([1])]]), sparse: [, 1], big: 2n, none: undefined };
        original.self = original;
        const copy = structuredClone(original);
        const moved = structuredClone(buffer, { transfer: [buffer] });
        const refused = [];
        for (const value of [() => 1, Symbol('s'), new URL('http://x.test'), Promise.resolve(),
            { deep: [new AbortController()] }]) {
            try { structuredClone(value); } catch (error) { refused.push(error.name); }
        }
        return [copy.view.buffer === copy.whole.buffer, copy.view[0] === 1027,
            copy.error instanceof RangeError, copy.error.cause.deep, copy.pattern.flags,
            [...copy.keys.values()][0].has(1), 0 in copy.sparse, copy.big === 2n, 'none' in copy,
            copy.self === copy, moved.byteLength, buffer.byteLength, new Set(refused).size,
            refused[0], refused.length];";
    let wanted = json!([
        true,
        true,
        true,
        true,
        "gi",
        true,
        false,
        true,
        true,
        true,
        4,
        0,
        1,
        "DataCloneError",
        5
    ]);
    assert_eq!(value(body).await, wanted);
}

#[tokio::test]
async fn the_console_fills_in_counts_and_indents() {
    let source = "export function run() {
        console.log('%s has %d of %i, %j %% %c.', 'Ann', '4.5', 4.9, { a: 'b' }, 'red', 'ok');
        console.log('100%', 5);
        console.group('group');
        console.warn('two\\nlines');
        console.groupEnd();
        console.assert(1 === 1, 'not this');
        console.assert(1 === 2, 'but %s', 'this');
        console.count('run');
        console.count('run');
        console.table([{ a: 1, b: 'x' }, { a: 22 }]);
        console.log(new Headers({ a: 'b' }), new URL('http://x.test/a'), { get x() { throw 1; } });
        console.log('x'.repeat(1_000_000));
    }";
    let report = run_within(source, &limits()).await;
    assert_eq!(report.outcome, Outcome::Done(Value::Null.into()));
    let mut log: Vec<(Level, &str)> =
        report.log.iter().map(|line| (line.level, line.text.as_str())).collect();
    let (_, long) = log.pop().expect("a line");
    assert!(long.len() < 300_000 && long.ends_with("characters more"), "{}", long.len());
    let wanted = [
        (Level::Log, "Ann has 4.5 of 4, { a: \"b\" } % . ok"),
        (Level::Log, "100% 5"),
        (Level::Log, "group"),
        (Level::Warn, "  two\n  lines"),
        (Level::Error, "Assertion failed: but this"),
        (Level::Log, "run: 1"),
        (Level::Log, "run: 2"),
        (Level::Log, "   a   b\n0  1   \"x\"\n1  22"),
        (Level::Log, "Headers { a: \"b\" } http://x.test/a { x: [getter] }"),
    ];
    assert_eq!(log, wanted);
}

#[tokio::test]
async fn a_url_and_its_parameters_stay_one() {
    let body = "
        const url = new URL('http://x.test/?a=1'), query = url.searchParams;
        url.search = '?n=2&m=%ZZ+%C3';
        const seen = [query.get('n'), query.get('m')];
        query.delete('m');
        query.append('n', 3);
        return [seen, url.href, query === url.searchParams, query.has('n', 3), query.size,
                URL.parse('nowhere'), String(new URLSearchParams([['a\\'', '~é']])),
                new URLSearchParams([['b', 1], ['a', 2]]).get('a')];";
    let wanted = json!([
        ["2", "%ZZ \u{fffd}"],
        "http://x.test/?n=2&n=3",
        true,
        true,
        2,
        null,
        "a%27=%7E%C3%A9",
        "2"
    ]);
    assert_eq!(value(body).await, wanted);
}

#[tokio::test]
async fn text_is_read_piece_by_piece() {
    let body = "
        const all = new TextEncoder().encode('\\ufeffaä€😀\\ufeff');
        const read = (decoder, bytes, size) => {
            let text = '';
            for (let at = 0; at < bytes.length; at += size) {
                text += decoder.decode(bytes.subarray(at, at + size), { stream: true });
            }
            return text + decoder.decode();
        };
        const decoder = new TextDecoder();
        const same = [1, 2, 3, 4, 5].map((size) => read(decoder, all, size) === 'aä€😀\\ufeff');
        const marked = read(new TextDecoder('utf8', { ignoreBOM: true }), all, 1);
        const fatal = new TextDecoder('utf-8', { fatal: true });
        const whole = read(fatal, all, 1);
        fatal.decode(all.subarray(0, 2), { stream: true });
        const names = [];
        try { fatal.decode(); } catch (error) { names.push(error.name); }
        // What was wrong is forgotten; what can be no character is not waited for.
        names.push(fatal.decode(new Uint8Array([97]), { stream: true }));
        try { fatal.decode(new Uint8Array([0xe0, 0x80]), { stream: true }); }
        catch (error) { names.push(error.name); }
        names.push(read(new TextDecoder(), new Uint8Array([0xf0, 0x9f, 97, 0xc3]), 1));
        return [same, marked === '\\ufeffaä€😀\\ufeff', whole, names];";
    let wanted = json!([
        [true, true, true, true, true],
        true,
        "aä€😀\u{feff}",
        ["TypeError", "a", "TypeError", "\u{fffd}a\u{fffd}"]
    ]);
    assert_eq!(value(body).await, wanted);
}

#[tokio::test]
async fn old_encodings_are_read_and_others_are_named() {
    let body = "
        const read = (label, bytes) => new TextDecoder(label).decode(new Uint8Array(bytes));
        const units = [0x41, 0, 0x3d, 0xd8, 0, 0xde, 0xac, 0x20];
        const pieces = new TextDecoder('utf-16');
        let text = '';
        for (const byte of units) text += pieces.decode(new Uint8Array([byte]), { stream: true });
        const failed = [];
        for (const code of [() => new TextDecoder('koi8-r'),
            () => new TextDecoder('utf-16le', { fatal: true }).decode(new Uint8Array([0, 0xd8]))]) {
            try { code(); } catch (error) { failed.push(`${error.name}: ${error.message}`); }
        }
        return [read(' Latin1', [0x4d, 0xfc, 0x6c, 0x80, 0x9f]), read('iso-8859-1', []),
            new TextDecoder('ascii').encoding, text + pieces.decode(), read('utf-16le', units),
            read('utf-16be', [0xfe, 0xff, 0, 0x41]), read('utf-16', [0x41, 0, 0x42]), failed];";
    let wanted = json!([
        "Mül€Ÿ",
        "",
        "windows-1252",
        "A😀€",
        "A😀€",
        "A",
        "A\u{fffd}",
        [
            "RangeError: the encoding koi8-r is not supported: there are utf-8, windows-1252, \
             utf-16le, utf-16be",
            "TypeError: the bytes are no UTF-16"
        ]
    ]);
    assert_eq!(value(body).await, wanted);
}

#[tokio::test]
async fn text_is_written_as_far_as_there_is_room() {
    let body = "
        const told = [];
        for (const [text, size] of [['aä€😀b', 20], ['aä€😀b', 9], ['aä€', 2], ['😀', 3], ['', 1],
            ['ab', 0], ['\\ud83d', 2], ['a\\ud83d', 4]]) {
            const target = new Uint8Array(size);
            const { read, written } = new TextEncoder().encodeInto(text, target);
            told.push([read, written, new TextDecoder().decode(target.subarray(0, written))]);
        }
        return told;";
    let wanted = json!([
        [6, 11, "aä€😀b"],
        [3, 6, "aä€"],
        [1, 1, "a"],
        [0, 0, ""],
        [0, 0, ""],
        [0, 0, ""],
        [0, 0, ""],
        [2, 4, "a\u{fffd}"]
    ]);
    assert_eq!(value(body).await, wanted);
}
