// Web tasks and the identity hook: who may, what is asked, what is answered.

const METHODS = ["get", "post", "put", "patch", "delete"];
const CONTENT_TYPES = ["application/json", "text/html", "text/plain"];

// A decision counts only if it was made here.
const decisions = new WeakMap();

function decided(decision) {
  const token = Object.freeze({});
  decisions.set(token, decision);
  return token;
}

const access = Object.freeze({
  authorized: (authContext = undefined) => decided({ isAuthorized: true, authContext }),
  unauthorized: (answer = undefined) => decided({ ...answer, isAuthorized: false }),
});

class WebRequest {
  #bytes;

  constructor({ method, url, path, headers, query, body }) {
    this.#bytes = native.fromBase64(body ?? "");
    this.method = method;
    this.url = url;
    this.path = path;
    this.headers = Headers._received(headers.map(([name, value]) => [name.toLowerCase(), value]));
    this.query = { ...query };
    const text = native.decode(binaryOf(this.#bytes), false);
    if (!isJson(contentType(this.headers))) this.body = text;
    else this.body = text.trim() === "" ? null : JSON.parse(withoutMark(text));
  }

  header(name) {
    return this.headers.get(name) ?? undefined;
  }

  async bytes() {
    return this.#bytes.slice();
  }

  async arrayBuffer() {
    return this.#bytes.slice().buffer;
  }

  async text() {
    return native.decode(binaryOf(this.#bytes), false);
  }

  async blob() {
    const type = this.headers.get("content-type") ?? "";
    return new (later("bodies").Blob)([this.#bytes], { type });
  }

  async formData() {
    return later("bodies").formOf(this.#bytes, this.headers.get("content-type") ?? "");
  }

  async json() {
    return JSON.parse(withoutMark(await this.text()));
  }
}

class WebResponse {
  status = 200;
  body = undefined;
  #headers = new Headers();

  get headers() {
    return this.#headers;
  }

  set headers(headers) {
    this.#headers = new Headers(headers);
  }
}

// The name of a content type, without its parameters.
function contentType(headers) {
  return (headers.get("content-type") ?? "").split(";", 1)[0].trim().toLowerCase();
}

function isJson(type) {
  return type === "application/json" || type.endsWith("+json");
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// The answer of a web task: `{ status, headers, body }`, the body as base64.
async function answerWeb(namespace, self, call) {
  if (typeof namespace.authenticate !== "function") {
    throw new Error("the web task does not export a function named authenticate");
  }
  let request;
  try {
    request = new WebRequest(call.request);
  } catch (error) {
    // A body may be no JSON, or nested more deeply than there is a stack for.
    if (!(error instanceof SyntaxError || error instanceof RangeError)) throw error;
    return webAnswer({ error: "the body is no JSON" }, 400);
  }
  // What the body says stands above what the address says.
  const fields = isObject(request.body) ? request.body : {};
  const params = { ...call.params, ...request.query, ...fields };
  const decision = decisions.get(
    await namespace.authenticate.call(self, { request, access, params }),
  );
  if (!decision) {
    throw new Error("authenticate must return access.authorized() or access.unauthorized()");
  }
  if (!decision.isAuthorized) {
    return webAnswer(decision.body ?? { error: "unauthorized" }, decision.status ?? 401);
  }
  const handler = METHODS.find((name) => name === request.method.toLowerCase());
  if (!handler || typeof namespace[handler] !== "function") {
    const known = METHODS.filter((name) => typeof namespace[name] === "function");
    const headers = { allow: known.map((name) => name.toUpperCase()).join(", ") };
    return webAnswer({ error: "method not allowed" }, 405, headers);
  }
  const response = new WebResponse();
  const { authContext } = decision;
  const value = await namespace[handler].call(self, { params, request, response, authContext });
  if (value instanceof Response) return await webResponse(value);
  if (isGenerator(value)) return await webPieces(value, response);
  if (isIterator(value)) {
    throw new TypeError("an iterator is no answer: return an array of it, or be a generator");
  }
  return webAnswer(value === undefined ? response.body : value, response.status, response.headers);
}

// A stream is sent piece by piece.
async function webResponse(response) {
  const source = Body._take(response);
  if (isLater("ReadableStream", source)) {
    return await webPieces(later("bodies").chunksOf(source), response);
  }
  return webBytes(source ?? new Uint8Array(), response.status, new Headers(response.headers));
}

// A value as an answer: a text is plain text unless it says otherwise, all else is JSON.
function webAnswer(value, status, init = undefined) {
  const headers = new Headers(init);
  const type = contentType(headers);
  if (value === undefined) return webBytes(new Uint8Array(), status, headers);
  let text = value;
  if (typeof value !== "string") {
    if (type !== "" && type !== "application/json") {
      throw new TypeError(`${type} takes a text: return one`);
    }
    const isBinary = value instanceof ArrayBuffer || ArrayBuffer.isView(value);
    text = isBinary ? undefined : jsonOf(value);
    if (text === undefined) throw new TypeError("this has no form in JSON");
  }
  if (type === "") {
    headers.set("content-type", typeof value === "string" ? "text/plain" : "application/json");
  }
  return webBytes(native.encode(text.toWellFormed()), status, headers);
}

// Other iterators yield what is no text: who returns one has forgotten to make a list of it.
function isGenerator(value) {
  const kind = Object.prototype.toString.call(value);
  return kind === "[object Generator]" || kind === "[object AsyncGenerator]";
}

// So many bytes of a piece are sent at once.
const PIECE_BYTES = 262144;

// The answer of a generator: each piece is sent as soon as it is there. What it sets before the
// first one counts.
async function webPieces(pieces, response) {
  let answer = null;
  for await (const piece of pieces) {
    const bytes = pieceBytes(piece);
    // After the piece: if the first is wrong, nothing has been answered yet.
    answer ??= webBegin(response);
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
      native.piece(binaryOf(bytes.subarray(at, at + PIECE_BYTES)));
    }
  }
  return answer ?? webBegin(response);
}

function isIterator(value) {
  return typeof value?.next === "function"
    && (Symbol.asyncIterator in value || Symbol.iterator in value);
}

function pieceBytes(piece) {
  if (typeof piece === "string") return native.encode(piece.toWellFormed());
  if (piece instanceof ArrayBuffer || ArrayBuffer.isView(piece)) return bytesOf(piece);
  throw new TypeError(`a generator yields texts or bytes, not ${shown(piece, 1)}`);
}

function webBegin({ status, headers: given }) {
  if (hasNoBody(status)) throw new RangeError(`an answer ${status} has no body`);
  const headers = new Headers(given);
  if (contentType(headers) === "") headers.set("content-type", "text/plain");
  const answer = webHead(status, headers);
  native.head(JSON.stringify(answer));
  return answer;
}

function webBytes(bytes, status, headers) {
  const isEmpty = bytes.length === 0 || hasNoBody(status);
  if (isEmpty) headers.delete("content-type");
  const answer = webHead(status, headers, isEmpty);
  return isEmpty ? answer : { ...answer, body: native.toBase64(binaryOf(bytes)) };
}

// An answer without its body.
function webHead(status, headers, isEmpty = false) {
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    throw new RangeError(`an answer has a status from 200 to 599, not ${shown(status)}`);
  }
  if (isEmpty) return { status, headers: [...headers], body: "" };
  const type = contentType(headers);
  if (!CONTENT_TYPES.includes(type)) {
    const known = CONTENT_TYPES.join(", ");
    throw new TypeError(`a web task answers with ${known}, not with ${type || "bytes"}`);
  }
  const given = headers.get("content-type");
  // As a whole: a browser may go by what comes after a comma.
  if (!/^[^;,]*(;\s*charset=("?)[\w-]+\2\s*)?;?\s*$/i.test(given)) {
    throw new TypeError(`a type has a charset at most, not ${shown(given)}`);
  }
  if (type.startsWith("text/") && !/;\s*charset=/i.test(given)) {
    headers.set("content-type", `${given}; charset=utf-8`);
  }
  return { status, headers: [...headers], body: "" };
}

// Which user an identity is, as the sign-in hook decides.
async function identify(namespace, self, call) {
  if (typeof namespace.extractIdentity !== "function") {
    throw new Error("the identity task does not export a function named extractIdentity");
  }
  const context = Object.freeze({
    authorized: (user) => decided({ isIdentity: true, user: identityOf(user) }),
    unauthorized: (why = undefined) => decided({ isIdentity: true, message: why?.message }),
  });
  const { claims } = call;
  const decision = decisions.get(
    await namespace.extractIdentity.call(self, { claims, context }),
  );
  if (!decision?.isIdentity) {
    throw new Error("extractIdentity must return context.authorized() or context.unauthorized()");
  }
  const { user, message } = decision;
  if (user) return { authorized: true, user };
  return { authorized: false, message: String(message ?? "this identity has no access") };
}

function identityOf(user) {
  if (typeof user === "string" && user !== "") return { id: user };
  if (typeof user?.id === "string" && user.id !== "") return user;
  throw new TypeError("context.authorized takes a saved user, such as one of DB.user");
}
