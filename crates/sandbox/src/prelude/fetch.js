// fetch, Headers, Request, Response (WHATWG; bodies are whole, not streamed).

class Headers {
  #values = new Map();

  constructor(init = undefined) {
    if (init === undefined || init === null) return;
    const pairs = typeof init[Symbol.iterator] === "function" ? init : Object.entries(init);
    for (const [name, value] of pairs) this.append(name, value);
  }

  append(name, value) {
    const key = headerName(name);
    const old = this.#values.get(key);
    const text = headerValue(value);
    this.#values.set(key, old === undefined ? text : `${old}, ${text}`);
  }

  set(name, value) {
    this.#values.set(headerName(name), headerValue(value));
  }

  get(name) {
    return this.#values.get(headerName(name)) ?? null;
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
    for (const name of [...this.#values.keys()].sort()) yield [name, this.#values.get(name)];
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
}

function headerName(name) {
  const key = String(name).toLowerCase();
  if (!/^[!#$%&'*+\-.^_`|~0-9a-z]+$/.test(key)) throw new TypeError(`${name} is no header name`);
  return key;
}

function headerValue(value) {
  const text = String(value).trim();
  if (/[\0\r\n]/.test(text)) throw new TypeError("a header value has one line");
  return text;
}

// A body as bytes, and the Content-Type that goes with it.
function packed(body) {
  if (body === undefined || body === null) return { bytes: new Uint8Array(), type: null };
  if (body instanceof URLSearchParams) {
    const type = "application/x-www-form-urlencoded;charset=UTF-8";
    return { bytes: native.encode(body.toString()), type };
  }
  if (body instanceof ArrayBuffer || ArrayBuffer.isView(body)) {
    return { bytes: bytesOf(body), type: null };
  }
  return { bytes: native.encode(String(body).toWellFormed()), type: "text/plain;charset=UTF-8" };
}

class Body {
  #bytes;
  #isUsed = false;

  constructor(bytes) {
    this.#bytes = bytes;
  }

  get bodyUsed() {
    return this.#isUsed;
  }

  async bytes() {
    if (this.#isUsed) throw new TypeError("the body was read before");
    this.#isUsed = true;
    return this.#bytes;
  }

  async arrayBuffer() {
    return (await this.bytes()).slice().buffer;
  }

  async text() {
    return native.decode(binaryOf(await this.bytes()), false);
  }

  async json() {
    return JSON.parse(await this.text());
  }

  _peek() {
    if (this.#isUsed) throw new TypeError("the body was read before");
    return this.#bytes;
  }
}

class Request extends Body {
  constructor(input, init = {}) {
    const old = input instanceof Request ? input : null;
    const { bytes, type } = packed(init.body ?? (old ? old._peek() : undefined));
    super(bytes);
    this.url = old ? old.url : new URL(String(input)).href;
    this.method = String(init.method ?? old?.method ?? "GET").toUpperCase();
    this.headers = new Headers(init.headers ?? old?.headers);
    this.signal = init.signal ?? old?.signal ?? null;
    this.redirect = String(init.redirect ?? old?.redirect ?? "follow");
    if (!["follow", "manual", "error"].includes(this.redirect)) {
      throw new TypeError('redirect is "follow", "manual" or "error"');
    }
    if (bytes.length > 0 && ["GET", "HEAD"].includes(this.method)) {
      throw new TypeError(`${this.method} has no body`);
    }
    if (type && init.body != null && !this.headers.has("content-type")) {
      this.headers.set("content-type", type);
    }
  }

  clone() {
    return new Request(this);
  }
}

class Response extends Body {
  constructor(body = null, init = {}) {
    const { bytes, type } = packed(body);
    super(bytes);
    this.status = init.status ?? 200;
    this.statusText = init.statusText ?? "";
    this.headers = new Headers(init.headers);
    this.url = init.url ?? "";
    this.type = "default";
    this.redirected = false;
    if (type && !this.headers.has("content-type")) this.headers.set("content-type", type);
  }

  get ok() {
    return this.status >= 200 && this.status <= 299;
  }

  clone() {
    return new Response(this._peek(), this);
  }

  static json(value, init = {}) {
    const headers = new Headers(init.headers);
    if (!headers.has("content-type")) headers.set("content-type", "application/json");
    return new Response(JSON.stringify(value), { ...init, headers });
  }
}

const requests = new Map();
let lastRequest = 0;

async function fetch(input, init = {}) {
  const request = new Request(input, init);
  request.signal?.throwIfAborted();
  const id = (lastRequest += 1);
  const json = JSON.stringify({
    method: request.method,
    url: request.url,
    headers: [...request.headers],
    body: native.toBase64(binaryOf(request._peek())),
    redirect: request.redirect,
  });
  return new Promise((resolve, reject) => {
    requests.set(id, { resolve, reject });
    request.signal?.addEventListener("abort", () => {
      if (requests.delete(id)) reject(request.signal.reason);
    });
    native.fetch(id, json);
  });
}

// The answer to a request, or why there is none, from the loop outside.
function settle(id, json) {
  const request = requests.get(id);
  if (!request) return;
  requests.delete(id);
  const { Ok: answer, Err: why } = JSON.parse(json);
  if (!answer) return void request.reject(new TypeError(why));
  const bytes = native.fromBase64(answer.body);
  const { status, status_text: statusText, headers, url } = answer;
  request.resolve(new Response(bytes, { status, statusText, headers, url }));
}
