// The globals, and the hooks of the loop outside. All of this runs before it is known which script
// comes; `open` tells.

const process = { env: {} };

// What few scripts need is read when one first wants it: these globals, by the part of the prelude
// that they are in; and encodings.
const LATER = {
  Blob: "bodies", File: "bodies", FormData: "bodies", ReadableStream: "bodies",
  ReadableStreamDefaultReader: "bodies", CryptoKey: "subtle", structuredClone: "clone",
};
const laterParts = new Map();

function later(part) {
  if (!laterParts.has(part)) laterParts.set(part, native.later(part)(shared));
  return laterParts.get(part);
}

// What those parts need of all else.
const shared = {
  AbortController, Body, DOMException, EventTarget, Headers, MADE_HERE, MachineDate,
  RANDOM_BYTES_MAX, URL, URLSearchParams, UTF_8, binaryOf, bytesOf, isLater, kindOfView, later,
  native, now, parsedQuery, shown, withoutMark,
};

// Whether a value is one of these; before they are there, nothing is.
function isLater(kind, value) {
  const part = laterParts.get(LATER[kind]);
  return part !== undefined && value instanceof part[kind];
}

const globals = {
  AbortController, AbortSignal, CloudCode, DB, DOMException, Event, EventTarget, Headers, Request,
  Response, TextDecoder, TextEncoder, URL, URLSearchParams, atob, btoa, clearInterval,
  clearTimeout, console, crypto, fetch, performance, process, queueMicrotask, reportError,
  setInterval, setTimeout,
};
for (const [name, value] of Object.entries(globals)) {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
}
for (const name of Object.keys(LATER)) {
  const settle = (value) => {
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
    return value;
  };
  const property = { get: () => settle(later(LATER[name])[name]), set: settle, configurable: true };
  Object.defineProperty(globalThis, name, property);
}

let context = null;

// Learns what is to be run. The script's module is evaluated after this.
function open(given) {
  native.begin();
  context = given;
  setClock(given.now_ms);
  setBackend(given.backend);
  Object.assign(process.env, given.env);
  performance.timeOrigin = now();
}

// Begins the run; answers a promise of its result as JSON.
async function start(namespace) {
  const { backend, env, run } = context;
  const self = { backend: { ...backend }, env: { ...env }, run: { ...run } };
  const result = await called(namespace, self, context.call);
  return jsonOf(result) ?? "null";
}

async function called(namespace, self, { web, identity, run }) {
  if (web) return await answerWeb(namespace, self, web);
  if (identity) return await identify(namespace, self, identity);
  if (typeof namespace.run !== "function") {
    throw new Error("the script does not export a function named run");
  }
  return await namespace.run.call(self, run.params ?? {});
}

// What was thrown, for the report: a message and a stack.
function describe(thrown) {
  const isError = thrown instanceof Error;
  const message = isError ? `${thrown.name}: ${thrown.message}` : `thrown: ${shown(thrown, 1)}`;
  return [message.toWellFormed(), String((isError && thrown.stack) || "").toWellFormed()];
}

// Says what a run that has succeeded leaves behind: nobody hears the answers.
function leave() {
  if (requests.size === 0) return;
  const what = requests.size === 1 ? "1 request was" : `${requests.size} requests were`;
  printed("warn", `${what} still under way when the run ended: await what it asks for`);
}

return { open, start, fireDue, settle, describe, leave, waiting: () => requests.size };
