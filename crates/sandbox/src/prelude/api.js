// The API of the task's app, as DB and CloudCode ask it: with the run's token, JSON in and out.

const DETAIL_CHARS_MAX = 500;

let backend = { url: "", token: "" };

function setBackend(given) {
  backend = { ...given };
}

class ApiError extends Error {
  constructor(request, answer, text) {
    const told = parsedOr(text, {});
    const type = typeof told?.type === "string" ? told.type : null;
    const detail = told?.detail ?? told?.title ?? text.slice(0, DETAIL_CHARS_MAX);
    const words = [answer.status, type ?? answer.statusText].filter(Boolean).join(" ");
    super([`${request}: ${words}`, detail].filter(Boolean).join(": "));
    this.status = answer.status;
    this.type = type;
  }

  get name() {
    return "ApiError";
  }
}

// What the API answers to a request; an ApiError unless the status is 2xx.
async function askApi(method, path, body = undefined) {
  const headers = { authorization: `Token ${backend.token}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  const text = body === undefined ? undefined : jsonOf(body);
  // The token is for this API and for nobody to whom it may point.
  const init = { method, headers, body: text, redirect: "manual" };
  const answer = await fetch(backend.url + path, init);
  const told = await answer.text();
  if (!answer.ok) throw new ApiError(`${method} ${path}`, answer, told);
  return parsedOr(told, null);
}

function parsedOr(text, otherwise) {
  try {
    return JSON.parse(text);
  } catch {
    return otherwise;
  }
}

// A value as the API takes it: moments in whole seconds.
function apiValue(value, what) {
  if (value instanceof Date) return secondsOf(value);
  if (Array.isArray(value)) return value.map((one) => apiValue(one, what));
  const isPlain = value === null || ["string", "boolean"].includes(typeof value);
  if (isPlain || Number.isFinite(value)) return value;
  const kind = typeof value === "object" ? "an object" : String(value);
  throw new TypeError(`${what} is ${kind}, and must be a text, number, boolean, Date or null`);
}

function secondsOf(date) {
  if (Number.isNaN(+date)) throw new TypeError("an invalid Date");
  return date.toISOString().replace(/\.\d+Z$/, "Z");
}
