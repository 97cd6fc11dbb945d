// The globals, the context, and the hooks of the loop outside.

const { backend, env, params } = native.context;
const process = { env: { ...env } };

Object.assign(globalThis, {
  AbortController, AbortSignal, Headers, Request, Response, TextDecoder, TextEncoder, URL,
  URLSearchParams, atob, btoa, clearInterval, clearTimeout, console, crypto, fetch, performance,
  process, queueMicrotask, setInterval, setTimeout, structuredClone,
});

// Begins the run; answers a promise of its result as JSON.
async function start(run) {
  const context = { backend: { ...backend }, env: { ...env } };
  const result = await run.call(context, params);
  return (JSON.stringify(result) ?? "null").toWellFormed();
}

// What was thrown, for the report: a message and a stack.
function describe(thrown) {
  const isError = thrown instanceof Error;
  const message = isError ? `${thrown.name}: ${thrown.message}` : `thrown: ${shown(thrown, 1)}`;
  return [message.toWellFormed(), String((isError && thrown.stack) || "").toWellFormed()];
}

return { start, fireDue, settle, describe, waiting: () => requests.size };
