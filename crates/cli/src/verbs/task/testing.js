// The module "reauth:test": what a test of a task can say and do. Each request to reauth.test is
// answered by the program that runs the tests: see lab.rs.

const tests = [];

export function test(name, body) {
  tests.push({ name: String(name), body });
}

async function ask(path, body = {}) {
  const answer = await fetch(`http://reauth.test${path}`, {
    method: "POST",
    body: JSON.stringify(body),
  });
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

class AssertionError extends Error {
  constructor(message, more = {}) {
    super(message);
    this.name = "AssertionError";
    Object.assign(this, more);
  }
}

// A value as JSON with sorted keys, so that two of them can be compared and shown line by line.
function shown(value) {
  const sorted = (one) => {
    if (one === undefined) return "(undefined)";
    if (typeof one === "bigint") return `(${one}n)`;
    if (typeof one === "function" || typeof one === "symbol") return `(${String(one)})`;
    if (typeof one === "number" && !Number.isFinite(one)) return `(${one})`;
    if (one === null || typeof one !== "object") return one;
    if (Array.isArray(one)) return one.map(sorted);
    const kind = Object.prototype.toString.call(one).slice(8, -1);
    if (one instanceof Error) return `(${one.name}: ${one.message})`;
    if (one instanceof Date) return `(Date ${one.getTime()})`;
    if (one instanceof RegExp) return `(${String(one)})`;
    if (one instanceof Map || one instanceof Set) {
      return { [`(${kind})`]: [...one].map((each) => JSON.stringify(sorted(each))).sort() };
    }
    if (one instanceof ArrayBuffer) return `(${kind} ${new Uint8Array(one)})`;
    if (one instanceof DataView) return sorted(one.buffer);
    if (ArrayBuffer.isView(one)) return `(${kind} ${one})`;
    if (typeof one.toJSON === "function") return sorted(one.toJSON());
    return Object.fromEntries(Object.keys(one).sort().map((key) => [key, sorted(one[key])]));
  };
  return JSON.stringify(sorted(value), null, 2);
}

export const assert = {
  equal(actual, expected, message) {
    const [left, right] = [shown(actual), shown(expected)];
    if (left === right) return;
    throw new AssertionError(message ?? "the values differ", { actual: left, expected: right });
  },

  ok(value, message) {
    if (!value) throw new AssertionError(message ?? `${shown(value)} is not true`);
  },

  async rejects(promise, pattern = /(?:)/) {
    let error;
    try {
      await (typeof promise === "function" ? promise() : promise);
    } catch (thrown) {
      error = thrown;
    }
    if (error === undefined) throw new AssertionError("it was not rejected");
    const text = String(error?.message ?? error);
    if (!pattern.test(text)) throw new AssertionError(`${text} does not match ${pattern}`);
  },
};

export const clock = {
  async now() {
    return new Date((await ask("/clock")).now);
  },

  async pass(span) {
    await ask("/clock/pass", { span: String(span) });
  },

  async set(at) {
    await ask("/clock/set", { at: at instanceof Date ? at.toISOString() : String(at) });
  },
};

class Device {
  #token;

  constructor({ id, user, session, token }) {
    this.id = id;
    this.user = user;
    this.session = session;
    this.#token = token;
  }

  async state() {
    const path = `/users/${this.user}/sessions/${this.session}`;
    return (await lab.api("GET", path)).body.state;
  }

  check() {
    return ask("/device/check", { token: this.#token });
  }

  async connect() {
    return (await ask("/device/connect", { token: this.#token })).status;
  }

  async signOut() {
    await ask("/device/sign-out", { token: this.#token });
  }
}

class User {
  constructor(id) {
    this.id = id;
  }

  async signIn(device, more = {}) {
    const made = await ask("/sign-in", { user: this.id, device, ...more });
    return new Device({ id: device, user: this.id, ...made });
  }

  async reload() {
    return must(await lab.api("GET", `/objects/user/${this.id}`));
  }

  async lock() {
    must(await lab.api("POST", `/users/${this.id}/lock`));
  }

  async join(group) {
    must(await lab.api("PUT", `/groups/${encodeURIComponent(group)}/members/${this.id}`));
  }
}

function must({ status, body }) {
  if (status >= 300) throw new Error(`${status}: ${body?.detail ?? JSON.stringify(body)}`);
  return body;
}

// What a test answers to a task that fetches.
function replied(value) {
  if (value instanceof Response) {
    return value.text().then((body) => {
      return { status: value.status, headers: Object.fromEntries(value.headers), body };
    });
  }
  if (typeof value === "string") {
    return { status: 200, headers: { "content-type": "text/plain" }, body: value };
  }
  const headers = { "content-type": "application/json" };
  return { status: 200, headers, body: JSON.stringify(value ?? null) };
}

async function serve(answer, requests) {
  for (;;) {
    const request = await ask("/http/next");
    if (request.done) return;
    requests.push({ method: request.method, path: request.path, body: request.body });
    let reply;
    try {
      reply = await replied(await answer(request));
    } catch (error) {
      reply = { status: 500, headers: {}, body: String(error) };
    }
    await ask("/http/answer", { id: request.id, ...reply });
  }
}

export const lab = {
  async settings(settings) {
    await ask("/settings", settings);
  },

  async deploy({ env = {} } = {}) {
    await ask("/deploy", { env });
  },

  async user(attributes = {}) {
    return new User(must(await lab.api("POST", "/objects/user", { user: attributes })).id);
  },

  async sample({ users = 20, devices = 2, days = 60 } = {}) {
    const step = Math.max(1, Math.floor((days * 86400) / users));
    const made = [];
    for (let at = 0; at < users; at += 1) {
      const user = await lab.user({ name: `User ${at + 1}`, email: `user${at + 1}@example.com` });
      for (let device = 0; device < devices; device += 1) {
        await user.signIn(`device-${at + 1}-${device + 1}`);
      }
      made.push(user);
      await clock.pass(`${step}s`);
    }
    return made;
  },

  async policies(policies) {
    must(await lab.api("PUT", "/policies", { policies }));
  },

  // Without params the task gets its own, as a real run does.
  run(params = undefined, options = {}) {
    return ask("/run", { params, ...options });
  },

  web(request = {}) {
    return ask("/web", request);
  },

  async tick() {
    await ask("/tick");
  },

  api(method, path, body = undefined) {
    return ask("/api", { method, path, body });
  },

  async ledger(kind = undefined) {
    const { entries } = await ask("/ledger");
    return kind === undefined ? entries : entries.filter((entry) => entry.kind === kind);
  },

  async http(answer) {
    const { url } = await ask("/http");
    const requests = [];
    serve(answer, requests).catch(() => {});
    return { url, requests };
  },
};

// Makes the world in which `reauth task dev` runs a task.
export async function furnish() {
  await ask("/begin");
  await lab.sample();
}

// Runs the tests, each in a world of its own; answers what became of them.
export async function run({ filter = "" }) {
  const results = [];
  for (const { name, body } of tests.filter((one) => one.name.includes(filter))) {
    await ask("/begin");
    const began = performance.now();
    const result = { name, ok: true };
    try {
      await body();
    } catch (error) {
      result.ok = false;
      result.message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
      result.stack = String(error?.stack ?? "");
      result.actual = error?.actual ?? null;
      result.expected = error?.expected ?? null;
    }
    result.took_ms = Math.round(performance.now() - began);
    results.push(result);
    await ask("/told", result);
  }
  return results;
}
