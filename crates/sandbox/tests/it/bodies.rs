//! Bodies of requests and answers: streams, files and forms.

use std::sync::PoisonError;

use reauth_sandbox::{Outcome, Request};
use serde_json::{Value, json};

use super::{World, job, limits, run, sandbox, value};

/// Runs the body of `run` in a small world; answers its result and what it asked.
async fn asked(body: &str) -> (Value, Vec<Request>) {
    let world = World::default();
    let source = format!("export async function run() {{ {body} }}");
    let job = job("task.js", &source, Value::Null);
    let report = sandbox("sandbox_child").run(&job, &limits(), &world).await;
    let Outcome::Done(json) = report.outcome else { panic!("{:?}: {body}", report.outcome) };
    let asked = world.asked.into_inner().unwrap_or_else(PoisonError::into_inner);
    (json.read().expect("a value"), asked)
}

#[tokio::test]
async fn the_body_of_an_answer_is_a_stream() {
    let body = "
        const ask = () => fetch('http://api.test/echo', { method: 'POST', body: 'grüße' });
        const answer = await ask(), twin = answer.clone();
        const reader = answer.body.getReader();
        const locked = [answer.body.locked, answer.bodyUsed];
        const first = await reader.read(), last = await reader.read();
        let text = '';
        const decoder = new TextDecoder();
        for await (const chunk of twin.body) text += decoder.decode(chunk, { stream: true });
        const failed = [];
        for (const code of [() => answer.text(), () => twin.json(), () => twin.clone(),
            () => new Request('http://x.test', { method: 'POST', body: twin.body })]) {
            try { await code(); } catch (error) { failed.push(error.name); }
        }
        const other = await ask(), same = other.body === other.body, whole = await other.json();
        const gone = await ask();
        await gone.body.cancel();
        const sizes = [];
        for await (const chunk of new Response(new Uint8Array(150_000)).body) {
            sizes.push(chunk.length);
        }
        const nothing = (await fetch('http://api.test/nothing')).body;
        return [locked, first.value.constructor.name, first.done, last.done, last.value ?? null,
            await reader.closed ?? null, text, answer.bodyUsed, failed, same, whole, other.bodyUsed,
            await gone.text().catch((error) => error.name), sizes, nothing,
            new Response('').body !== null];";
    let wanted = json!([
        [true, false],
        "Uint8Array",
        false,
        true,
        null,
        null,
        "{\"body\":\"grüße\"}",
        true,
        ["TypeError", "TypeError", "TypeError", "TypeError"],
        true,
        { "body": "grüße" },
        true,
        "TypeError",
        [65536, 65536, 18928],
        null,
        true
    ]);
    assert_eq!(asked(body).await.0, wanted);
}

#[tokio::test]
async fn a_stream_that_a_script_makes_can_be_sent() {
    let body = "
        const encoder = new TextEncoder();
        const lines = (list) => new ReadableStream({
            async pull(controller) {
                await new Promise((go) => setTimeout(go, 1));
                if (list.length === 0) controller.close();
                else controller.enqueue(encoder.encode(list.shift()));
            },
        });
        const send = (body, rest) => fetch('http://api.test/echo',
            { method: 'POST', duplex: 'half', body, ...rest });
        const one = await (await send(lines(['a', 'b', 'c']))).json();
        const request = new Request('http://api.test/echo', { method: 'POST', body: lines(['d']) });
        const twin = request.clone();
        const two = [await (await fetch(request)).json(), await (await fetch(twin)).json()];
        const parts = (function* () { yield encoder.encode('e'); yield encoder.encode('f'); })();
        const three = await new Response(ReadableStream.from(parts)).text();
        const failed = [];
        const note = (promise) => promise.catch((error) => failed.push(error.message ?? error));
        await note(send(ReadableStream.from(['text'])));
        await note(send(new ReadableStream({ pull() { throw new Error('the source is dry'); } })));
        let reason = null;
        const endless = new ReadableStream({ cancel(why) { reason = why.name; } });
        await note(send(endless, { signal: AbortSignal.timeout(5) }));
        return [one, two, three, failed, reason];";
    let (value, asked) = asked(body).await;
    let wanted = json!([
        { "body": "abc" },
        [{ "body": "d" }, { "body": "d" }],
        "ef",
        [
            "the stream of a body gives Uint8Arrays, not \"text\"",
            "the source is dry",
            "the time is over"
        ],
        "TimeoutError"
    ]);
    assert_eq!(value, wanted);
    assert_eq!(asked.len(), 3, "what could not be read was not sent");
    assert!(!asked[0].headers.iter().any(|(name, _)| name == "content-type"), "{asked:?}");
}

#[tokio::test]
async fn streams_keep_order_room_and_ends() {
    let body = "
        const told = [];
        const stream = new ReadableStream({
            start(controller) { controller.enqueue(1); told.push(controller.desiredSize); },
            pull(controller) { told.push('pull'); controller.enqueue(2); controller.close(); },
            cancel() { told.push('never'); },
        }, { highWaterMark: 2 });
        const [left, right] = stream.tee();
        const all = [await Array.fromAsync(left), await Array.fromAsync(right), stream.locked];
        const breaks = new ReadableStream({
            start(controller) { controller.enqueue('a'); controller.enqueue('b'); },
            cancel(reason) { told.push(`cancel ${reason}`); },
        });
        for await (const chunk of breaks) { told.push(chunk); break; }
        const kept = ReadableStream.from(['x', Promise.resolve('y')]);
        for await (const chunk of kept.values({ preventCancel: true })) { told.push(chunk); break; }
        for await (const chunk of kept) told.push(chunk);
        let failing;
        const broken = new ReadableStream({ start(controller) { failing = controller; } });
        const reader = broken.getReader(), read = reader.read();
        failing.error(new RangeError('broken'));
        const released = new ReadableStream().getReader(), waiting = released.read();
        released.releaseLock();
        for (const promise of [read, reader.read(), reader.closed, broken.cancel(), waiting,
            released.read(), released.closed]) {
            await promise.catch((error) => told.push(error.name));
        }
        for (const code of [() => failing.enqueue(1), () => broken.getReader(),
            () => kept.getReader({ mode: 'byob' }), () => new ReadableStream({ type: 'odd' }),
            () => ReadableStream.from(7), () => new ReadableStream({ start() { throw 'now'; } }),
            () => new ReadableStream({}, { highWaterMark: -1 })]) {
            try { code(); told.push('fine'); } catch (error) { told.push(error.name ?? error); }
        }
        return [all, told];";
    let wanted = json!([
        [[1, 2], [1, 2], true],
        [
            1,
            "pull",
            "a",
            "cancel undefined",
            "x",
            "y",
            "RangeError",
            "RangeError",
            "RangeError",
            "TypeError",
            "TypeError",
            "TypeError",
            "TypeError",
            "TypeError",
            "TypeError",
            "TypeError",
            "TypeError",
            "TypeError",
            "now",
            "RangeError"
        ]
    ]);
    assert_eq!(value(body).await, wanted);
}

#[tokio::test]
async fn who_waits_for_an_end_hears_that_the_reader_was_released() {
    let body = "
        const told = async (promise) => promise.then(() => 'ended', (error) => error.name);
        const open = new ReadableStream().getReader(), waiting = open.closed;
        open.releaseLock();
        let close;
        const start = (controller) => void (close = () => controller.close());
        const shut = new ReadableStream({ start });
        const reader = shut.getReader(), ended = reader.closed;
        close();
        reader.releaseLock();
        const next = shut.getReader(), again = next.closed;
        next.releaseLock();
        return [await told(waiting), await told(open.closed), await told(ended),
            await told(reader.closed), await told(again), open.closed === waiting];";
    let wanted = json!(["TypeError", "TypeError", "ended", "TypeError", "ended", true]);
    assert_eq!(value(body).await, wanted);
}

#[tokio::test]
async fn a_source_of_bytes_is_asked_when_someone_reads() {
    let body = "
        const asked = async (type, strategy) => {
            let count = 0;
            const pull = (controller) => controller.enqueue(new Uint8Array([count += 1]));
            const stream = new ReadableStream({ type, pull }, strategy);
            await new Promise((go) => setTimeout(go, 1));
            const before = count;
            const { value } = await stream.getReader().read();
            return [before, value[0]];
        };
        return [await asked('bytes'), await asked('bytes', { highWaterMark: 2 }),
            await asked(undefined), await asked(undefined, {})];";
    assert_eq!(value(body).await, json!([[0, 1], [2, 1], [1, 1], [1, 1]]));
}

#[tokio::test]
async fn what_is_in_quotes_begins_no_parameter_of_a_part() {
    let body = r#"
        const read = async (about, type = 'multipart/form-data; boundary=x') => {
            const text = `--x\r\nContent-Disposition: form-data${about}\r\n\r\n1\r\n--x--\r\n`;
            const response = new Response(text, { headers: { 'content-type': type } });
            const told = ([name, value]) => [name, value.name ?? null];
            return await response.formData().then((form) => [...form].map(told)[0], String);
        };
        const form = new FormData();
        form.append('a; filename=b', '1');
        const again = [...await new Response(form).formData()];
        return [again, await read('; name="a; filename=b"'), await read('; name="a; name=b"'),
            await read('; x="; name=a"; NAME=b'), await read('; filename="; name=c"; name="d"'),
            await read('; name=a;filename="b.c"'), await read('; name="a'), await read('; name='),
            await read('; name=a', 'multipart/form-data; odd="; boundary=y"; boundary="x"')];"#;
    let wanted = json!([
        [["a; filename=b", "1"]],
        ["a; filename=b", null],
        ["a; name=b", null],
        ["b", null],
        ["d", "; name=c"],
        ["a", "b.c"],
        "TypeError: the body is no form: a part has no name",
        ["", null],
        ["a", null]
    ]);
    assert_eq!(value(body).await, wanted);
}

#[tokio::test]
async fn a_source_is_asked_once_at_a_time_and_a_body_is_read_once() {
    let body = "
        let [count, now, most] = [0, 0, 0];
        const stream = new ReadableStream({
            async pull(controller) {
                most = Math.max(most, now += 1);
                await new Promise((go) => setTimeout(go, 1));
                controller.enqueue(count += 1);
                now -= 1;
            },
        }, { highWaterMark: 0 });
        const reader = stream.getReader();
        const reads = await Promise.all([1, 2, 3].map(() => reader.read()));
        const rest = [count, most, reads.map(({ value }) => value)];
        const answer = new Response('x');
        await answer.text();
        const late = new Response('x');
        late.body;
        await late.text();
        const failed = [];
        for (const read of [answer, late]) {
            failed.push(await Array.fromAsync(read.body).catch((error) => error.name));
        }
        return [rest, failed, answer.body.locked, late.bodyUsed];";
    let wanted = json!([[3, 1, [1, 2, 3]], ["TypeError", "TypeError"], true, true]);
    assert_eq!(value(body).await, wanted);
}

#[tokio::test]
async fn a_stream_that_nobody_fills_ends_the_run() {
    let source = "export async function run() { await new Response(new ReadableStream()).text() }";
    let outcome = run(source).await;
    assert!(
        matches!(&outcome, Outcome::Threw { message, .. } if message.contains("can never end")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn files_are_bytes_with_a_name() {
    let body = "
        const parts = ['aä', new Uint8Array([0x62]), new Blob(['c']), 4];
        const blob = new Blob(parts, { type: 'Text/X' });
        const file = new File([blob], 'a.csv', { lastModified: 7 });
        const copy = structuredClone({ file }).file;
        const answer = new Response(blob);
        const mixed = await new Response('{}', { headers: { 'content-type': 'a/b' } }).blob();
        const bytes = await blob.bytes(), sent = await new Response(blob).bytes();
        bytes.fill(0);
        const failed = [];
        for (const code of [() => new Blob('text'), () => new File([]),
            () => structuredClone(new FormData()), () => structuredClone(blob.stream())]) {
            try { code(); } catch (error) { failed.push(error.name); }
        }
        return [blob.size, blob.type, await blob.text(), await blob.slice(-2).text(),
            await blob.slice(0, 1, 'x/y').text(), blob.slice(0, 1, 'x/y').type, file.name,
            file.lastModified, file instanceof Blob, String(file), copy !== file, copy.name,
            await copy.text(), answer.headers.get('content-type'),
            (await answer.arrayBuffer()).byteLength, mixed.type, mixed.size, sent.length,
            await new Response(blob.stream()).text(), failed];";
    let wanted = json!([
        6,
        "text/x",
        "aäbc4",
        "c4",
        "a",
        "x/y",
        "a.csv",
        7,
        true,
        "[object File]",
        true,
        "a.csv",
        "aäbc4",
        "text/x",
        6,
        "a/b",
        2,
        6,
        "aäbc4",
        ["TypeError", "TypeError", "DataCloneError", "DataCloneError"]
    ]);
    assert_eq!(value(body).await, wanted);
}

#[tokio::test]
async fn a_form_is_sent_with_its_files() {
    let body = r#"
        const form = new FormData();
        form.append('name', 'Ann\nLee');
        form.append('a "b"', '1');
        const bytes = new Uint8Array([0, 255, 13, 10]);
        form.append('file', new Blob([bytes], { type: 'x/y' }), 'ä".bin');
        form.append('plain', new Blob(['p']));
        form.set('a "b"', 2);
        await fetch('http://api.test/echo', { method: 'POST', body: form });
        const again = await new Response(form).formData();
        const file = again.get('file');
        const read = async (type, text) => {
            const response = new Response(text, { headers: { 'content-type': type } });
            return await response.formData().then((form) => [...form], (error) => error.message);
        };
        const multi = 'multipart/form-data; boundary=x';
        const part = 'Content-Disposition: form-data; name=a';
        return [[...again.keys()], again.get('name'), again.get('a "b"'), file.name, file.type,
            [...await file.bytes()], again.get('plain').name, again.get('none'),
            again.getAll('name').length, again.has('file'),
            (again.delete('file'), again.has('file')),
            await read('application/x-www-form-urlencoded; charset=utf-8', 'a=1+2&b=%C3%A4'),
            await read(multi, `preamble\r\n--x\r\n${part}\r\n\r\n1\r\n2\r\n--x--\r\n`),
            await read(multi, `--x\r\n${part}\r\n\r\n1\r\n`),
            await read(multi, `--x\r\n${part}1\r\n--x--`),
            await read(multi, `--x\r\nx: y\r\n\r\n1\r\n--x--`),
            await read('multipart/form-data', '--x--'), await read('text/plain', 'a=1')];"#;
    let (value, asked) = asked(body).await;
    let wanted = json!([
        ["name", "a \"b\"", "file", "plain"],
        "Ann\r\nLee",
        "2",
        "ä\".bin",
        "x/y",
        [0, 255, 13, 10],
        "blob",
        null,
        1,
        true,
        false,
        [["a", "1 2"], ["b", "ä"]],
        [["a", "1\r\n2"]],
        "the body is no form: it does not end",
        "the body is no form: a part has no head",
        "the body is no form: a part has no name",
        "the body is no form, but multipart/form-data",
        "the body is no form, but text/plain"
    ]);
    assert_eq!(value, wanted);
    let content_type = asked[0].headers.iter().find(|(name, _)| name == "content-type");
    let (_, content_type) = content_type.expect("it says what it is");
    let boundary = content_type.strip_prefix("multipart/form-data; boundary=").expect("a form");
    let head = "Content-Disposition: form-data; name=";
    let text = format!(
        "--{boundary}\r\n{head}\"name\"\r\n\r\nAnn\r\nLee\r\n\
         --{boundary}\r\n{head}\"a %22b%22\"\r\n\r\n2\r\n\
         --{boundary}\r\n{head}\"file\"; filename=\"ä%22.bin\"\r\nContent-Type: x/y\r\n\r\n"
    );
    let rest = format!(
        "\r\n--{boundary}\r\n{head}\"plain\"; filename=\"blob\"\r\n\
         Content-Type: application/octet-stream\r\n\r\np\r\n--{boundary}--\r\n"
    );
    let wanted = [text.as_bytes(), &[0, 255, 13, 10], rest.as_bytes()].concat();
    assert_eq!(String::from_utf8_lossy(&asked[0].body), String::from_utf8_lossy(&wanted));
    assert_eq!(asked[0].body, wanted);
}

#[tokio::test]
async fn what_few_scripts_need_is_there_as_all_else() {
    let body = "
        const names = ['Blob', 'File', 'FormData', 'ReadableStream', 'ReadableStreamDefaultReader',
            'CryptoKey', 'structuredClone'];
        const kinds = new Set(names.map((name) => typeof globalThis[name]));
        const told = names.every((name) => globalThis[name].name === name);
        globalThis.Blob = 7;
        const found = Object.keys(globalThis).filter((name) => names.includes(name));
        return [[...kinds], told, Blob, found, typeof laterParts, Blob === globalThis.Blob];";
    assert_eq!(value(body).await, json!([["function"], true, 7, [], "undefined", true]));
    let body = "globalThis.FormData = 8; return [FormData, (await new Response('').blob()).size]";
    assert_eq!(value(body).await, json!([8, 0]), "it may be replaced before it is used");
}

/// The script is told, and goes on: what is asked for is not sent.
#[tokio::test]
async fn a_request_that_is_too_long_is_the_scripts_to_know() {
    let body = "
        const told = [];
        const ask = (url, init) =>
            fetch(url, init).then(({ status }) => told.push(status), ({ name, message }) =>
                told.push(`${name}: ${message}`));
        await ask('http://api.test/echo', { method: 'POST', body: 'x'.repeat(9_000_000) });
        const headers = Object.fromEntries([...Array(101).keys()].map((n) => [`x-${n}`, '1']));
        await ask('http://api.test/echo', { headers });
        await ask(`http://api.test/echo?${'x'.repeat(60_000)}`);
        await ask('http://api.test/echo', { headers: { 'x-long': 'x'.repeat(60_000) } });
        await ask('http://api.test/echo', { method: 'POST', body: 'x'.repeat(8_388_608) });
        const [, , , , last] = told;
        told[4] = String(last).includes('answer is longer');
        return told;";
    let (told, asked) = asked(body).await;
    let wanted = json!([
        "TypeError: a request's body may have 8388608 bytes, not 9000000",
        "TypeError: a request may have 100 headers, not 101",
        "TypeError: a request's URL and headers may have 49152 bytes in all",
        "TypeError: a request's URL and headers may have 49152 bytes in all",
        // That one was sent: its echo is too long.
        true,
    ]);
    assert_eq!((told, asked.len()), (wanted, 1));
}
