// fetch, Headers, Request, Response (WHATWG). The bodies of answers are there as a whole; what is
// sent is read to its end before.

class Headers {
  // Name to values: only cookies are never joined to one text.
  #values = new Map();

  constructor(init = undefined) {
    if (init === undefined) return;
    if (typeof init !== "object" || init === null) throw new TypeError("headers are pairs");
    if (init instanceof Headers) {
      for (const [name, values] of init.#values) this.#values.set(name, [...values]);
      return;
    }
    const isList = typeof init[Symbol.iterator] === "function";
    for (const pair of isList ? init : Object.entries(init)) {
      const [name, value, ...rest] = pair;
      if (value === undefined || rest.length > 0) {
        throw new TypeError("a header is a name and a value");
      }
      this.append(name, value);
    }
  }

  append(name, value) {
    const key = headerName(name);
    const text = headerValue(value);
    this.#values.set(key, [...(this.#values.get(key) ?? []), text]);
  }

  set(name, value) {
    this.#values.set(headerName(name), [headerValue(value)]);
  }

  get(name) {
    return this.#values.get(headerName(name))?.join(", ") ?? null;
  }

  getSetCookie() {
    return [...(this.#values.get("set-cookie") ?? [])];
  }

  has(name) {
    return this.#values.has(headerName(name));
  }

  delete(name) {
    this.#values.delete(headerName(name));
  }

  forEach(call, self = undefined) {
    for (const [name, value] of this) call.call(self, value, name, this);
  }

  *entries() {
    for (const name of [...this.#values.keys()].sort()) {
      const values = this.#values.get(name) ?? [];
      if (name === "set-cookie") for (const value of values) yield [name, value];
      else yield [name, values.join(", ")];
    }
  }

  *keys() {
    for (const [name] of this.entries()) yield name;
  }

  *values() {
    for (const [, value] of this.entries()) yield value;
  }

  [Symbol.iterator]() {
    return this.entries();
  }

  get [Symbol.toStringTag]() {
    return "Headers";
  }

  // What a server sent is read as it is.
  static _received(pairs) {
    const headers = new Headers();
    for (const [name, value] of pairs) {
      headers.#values.set(name, [...(headers.#values.get(name) ?? []), value]);
    }
    return headers;
  }
}

function headerName(name) {
  const key = String(name).toLowerCase();
  if (!/^[!#$%&'*+\-.^_`|~0-9a-z]+$/.test(key)) throw new TypeError(`${name} is no header name`);
  return key;
}

function headerValue(value) {
  const text = String(value).replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, "");
  if (/[\0\r\n]/.test(text)) throw new TypeError("a header value has one line");
  if (/[^\0-\xff]/.test(text)) throw new TypeError("a header value has characters up to U+00FF");
  return text;
}

// A body as bytes or as a stream, and the Content-Type that goes with it. No body is null.
function packed(body) {
  if (body === undefined || body === null) return { bytes: null, type: null };
  if (isLater("ReadableStream", body)) return { bytes: unread(body), type: null };
  if (isLater("Blob", body)) return later("bodies").packedBlob(body);
  if (isLater("FormData", body)) return later("bodies").packedForm(body);
  if (body instanceof URLSearchParams) {
    const type = "application/x-www-form-urlencoded;charset=UTF-8";
    return { bytes: native.encode(body.toString()), type };
  }
  if (body instanceof ArrayBuffer || ArrayBuffer.isView(body)) {
    return { bytes: bytesOf(body), type: null };
  }
  return { bytes: native.encode(String(body).toWellFormed()), type: "text/plain;charset=UTF-8" };
}

// A stream that somebody reads, or has read, is no body.
function unread(stream) {
  const isRead = stream.locked || later("bodies").isTouched(stream);
  if (isRead) throw new TypeError("the body was read before");
  return stream;
}

class Body {
  // Null, bytes, or a stream: given so, or as it was first asked for.
  #source;
  #isUsed = false;

  constructor(source) {
    this.#source = source;
  }

  get body() {
    if (this.#source instanceof Uint8Array) {
      this.#source = later("bodies").streamOf(this.#source);
      // What was read before is a stream that was read.
      if (this.#isUsed) this.#source.getReader().cancel();
    }
    return this.#source;
  }

  get bodyUsed() {
    const isStream = isLater("ReadableStream", this.#source);
    return this.#isUsed || (isStream && later("bodies").isTouched(this.#source));
  }

  async bytes() {
    return (await Body._bytes(Body._take(this))).slice();
  }

  async arrayBuffer() {
    return (await this.bytes()).buffer;
  }

  async text() {
    return withoutMark(native.decode(binaryOf(await this.bytes()), false));
  }

  async json() {
    return JSON.parse(await this.text());
  }

  async blob() {
    const type = this.headers.get("content-type") ?? "";
    return new (later("bodies").Blob)([await this.bytes()], { type });
  }

  async formData() {
    return later("bodies").formOf(await this.bytes(), this.headers.get("content-type") ?? "");
  }

  // What is there, which stays readable.
  static _peek(body) {
    if (body.#isUsed) throw new TypeError("the body was read before");
    return isLater("ReadableStream", body.#source) ? unread(body.#source) : body.#source;
  }

  // What is there, which can be read once.
  static _take(body) {
    const source = Body._peek(body);
    body.#isUsed = source !== null;
    return source;
  }

  // What is there, for two.
  static _share(body) {
    const source = Body._peek(body);
    if (!isLater("ReadableStream", source)) return source;
    const [own, other] = source.tee();
    body.#source = own;
    return other;
  }

  // All of it.
  static async _bytes(source, signal = undefined) {
    const isStream = isLater("ReadableStream", source);
    if (isStream) return await later("bodies").bytesOfStream(source, signal);
    return source ?? new Uint8Array();
  }
}

class Request extends Body {
  constructor(input, init = undefined) {
    const old = input instanceof Request ? input : null;
    const wanted = init ?? {};
    const url = old ? new URL(old.url) : new URL(String(input));
    if (url.username || url.password) throw new TypeError("a request's URL has no credentials");
    const method = methodOf(wanted.method ?? old?.method ?? "GET");
    const redirect = String(wanted.redirect ?? old?.redirect ?? "follow");
    if (!["follow", "manual", "error"].includes(redirect)) {
      throw new TypeError(`redirect is follow, manual or error, not ${redirect}`);
    }
    const isNew = wanted.body !== undefined && wanted.body !== null;
    if ((isNew || (old && Body._peek(old))) && ["GET", "HEAD"].includes(method)) {
      throw new TypeError(`${method} has no body`);
    }
    const { bytes, type } = isNew ? packed(wanted.body) : { bytes: old ? Body._take(old) : null };
    super(bytes);
    this.url = url.href;
    this.method = method;
    this.headers = new Headers(wanted.headers ?? old?.headers);
    this.redirect = redirect;
    const signal = wanted.signal === undefined ? old?.signal : wanted.signal;
    this.signal = signal ?? new AbortController().signal;
    if (!(this.signal instanceof AbortSignal)) throw new TypeError("signal is an AbortSignal");
    if (type && !this.headers.has("content-type")) this.headers.set("content-type", type);
  }

  clone() {
    const { url, method, headers, redirect, signal } = this;
    return new Request(url, { method, headers, redirect, signal, body: Body._share(this) });
  }
}

function methodOf(method) {
  const name = String(method);
  const isRight = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(name);
  if (!isRight || ["CONNECT", "TRACE", "TRACK"].includes(name.toUpperCase())) {
    throw new TypeError(`${name} is no method of a request`);
  }
  return name.toUpperCase();
}

class Response extends Body {
  constructor(body = null, init = undefined) {
    const { status = 200, statusText = "", headers } = init ?? {};
    if (!Number.isInteger(status) || status < 200 || status > 599) {
      throw new RangeError(`a response has a status from 200 to 599, not ${status}`);
    }
    const { bytes, type } = packed(body);
    if (bytes && hasNoBody(status)) throw new TypeError(`a response ${status} has no body`);
    super(bytes);
    this.status = status;
    this.statusText = String(statusText);
    this.headers = new Headers(headers);
    this.url = "";
    this.type = "default";
    this.redirected = false;
    if (type && !this.headers.has("content-type")) this.headers.set("content-type", type);
  }

  get ok() {
    return this.status >= 200 && this.status <= 299;
  }

  clone() {
    const { status, statusText, headers, url, type, redirected } = this;
    const copy = new Response(Body._share(this), { statusText, headers });
    return Object.assign(copy, { status, url, type, redirected });
  }

  static json(value, init = undefined) {
    const headers = new Headers(init?.headers);
    const text = JSON.stringify(value);
    if (text === undefined) throw new TypeError("this has no form in JSON");
    if (!headers.has("content-type")) headers.set("content-type", "application/json");
    return new Response(text, { ...init, headers });
  }

  static error() {
    return Object.assign(new Response(), { status: 0, type: "error" });
  }

  static redirect(url, status = 302) {
    if (![301, 302, 303, 307, 308].includes(status)) {
      throw new RangeError(`${status} is no status of a redirect`);
    }
    return new Response(null, { status, headers: { location: new URL(String(url)).href } });
  }
}

function hasNoBody(status) {
  return [204, 205, 304].includes(status);
}

// So many requests are under way at once, with so many bytes in all unless one is alone; more wait
// here, in the script's own memory. The parent reads no more than that before it has answered.
const UNDER_WAY_MAX = 16;
const UNDER_WAY_BYTES_MAX = 8388608;
const requests = new Map();
const notSent = [];
let lastRequest = 0;
let underWay = 0;
let underWayBytes = 0;

function sendNext() {
  while (underWay < UNDER_WAY_MAX && notSent.length > 0) {
    const request = requests.get(notSent[0]);
    const isRoom = underWay === 0 || underWayBytes + request?.bytes < UNDER_WAY_BYTES_MAX;
    // One that was given up meanwhile is not sent.
    if (request && !isRoom) return;
    const id = notSent.shift();
    if (!request) continue;
    native.fetch(id, request.json());
    underWay += 1;
    underWayBytes += request.bytes;
    request.isSent = true;
    request.json = null;
  }
}

// Takes a request out, answered or not.
function taken(id) {
  const request = requests.get(id);
  if (!request) return null;
  requests.delete(id);
  request.done();
  if (request.isSent) {
    underWay -= 1;
    underWayBytes -= request.bytes;
  }
  return request;
}

// No less than the parent counts for it: text in JSON, bytes as base64, 64 for each header.
function bytesOfRequest({ method, url }, headers, body) {
  let bytes = 512 + method.length + 2 * url.length + 4 * Math.ceil(body.length / 3);
  for (const [name, value] of headers) bytes += 6 * (name.length + value.length) + 80;
  return bytes;
}

// What the parent would take for too much, or not read at all. Of the rest than the body it reads
// some more than this.
const BODY_BYTES_MAX = 8388608;
const HEADERS_MAX = 100;
const HEAD_BYTES_MAX = 49152;

function refuseTooLong(request, headers, body) {
  if (body.length > BODY_BYTES_MAX) {
    throw new TypeError(`a request's body may have ${BODY_BYTES_MAX} bytes, not ${body.length}`);
  }
  if (headers.length > HEADERS_MAX) {
    throw new TypeError(`a request may have ${HEADERS_MAX} headers, not ${headers.length}`);
  }
  if (bytesOfRequest(request, headers, "") > HEAD_BYTES_MAX) {
    throw new TypeError(`a request's URL and headers may have ${HEAD_BYTES_MAX} bytes in all`);
  }
}

async function fetch(input, init = undefined) {
  const request = new Request(input, init);
  const { signal, url } = request;
  signal.throwIfAborted();
  const id = (lastRequest += 1);
  const { method, redirect } = request;
  const [headers, source] = [[...request.headers], Body._take(request)];
  const isThere = !isLater("ReadableStream", source);
  const body = isThere ? (source ?? new Uint8Array()) : await Body._bytes(source, signal);
  refuseTooLong(request, headers, body);
  const json = () => {
    const packed = native.toBase64(binaryOf(body));
    return JSON.stringify({ method, url, headers, body: packed, redirect });
  };
  const bytes = bytesOfRequest(request, headers, body);
  return new Promise((resolve, reject) => {
    const giveUp = () => {
      const request = taken(id);
      if (!request) return;
      if (request.isSent) native.giveUp(id);
      reject(signal.reason);
      sendNext();
    };
    signal.addEventListener("abort", giveUp);
    const done = () => signal.removeEventListener("abort", giveUp);
    requests.set(id, { resolve, reject, url, done, json, bytes, isSent: false });
    notSent.push(id);
    sendNext();
  });
}

// The answer to a request, or why there is none, from the loop outside.
function settle(id, json) {
  const request = taken(id);
  // It may have been given up while its answer was on its way.
  if (!request) return;
  settled(request, json);
  sendNext();
}

function settled(request, json) {
  const { Ok: answer, Err: why } = JSON.parse(json);
  if (!answer) return void request.reject(new TypeError(why));
  const { status, status_text: statusText, url } = answer;
  const bytes = native.fromBase64(answer.body);
  const response = new Response(bytes.length === 0 || hasNoBody(status) ? null : bytes);
  const headers = Headers._received(answer.headers);
  const redirected = withoutHash(url) !== withoutHash(request.url);
  const rest = { status, statusText, headers, url, type: "basic", redirected };
  request.resolve(Object.assign(response, rest));
}

function withoutHash(url) {
  return url.split("#", 1)[0];
}
