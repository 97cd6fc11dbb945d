// URL and URLSearchParams (WHATWG). The parsing is native.

class URLSearchParams {
  #pairs = [];
  #changed = () => {};

  constructor(init = "", changed = undefined) {
    if (typeof changed === "function") this.#changed = changed;
    if (typeof init === "object" && init !== null) {
      const isList = typeof init[Symbol.iterator] === "function";
      this.#pairs = [...(isList ? init : Object.entries(init))].map(textPair);
    } else {
      this.#pairs = parsedQuery(String(init));
    }
  }

  get size() {
    return this.#pairs.length;
  }

  append(name, value) {
    this.#pairs.push(textPair([name, value]));
    this.#changed();
  }

  delete(name, value = undefined) {
    const isIt = ([key, one]) => {
      return key === String(name) && (value === undefined || one === String(value));
    };
    this.#pairs = this.#pairs.filter((pair) => !isIt(pair));
    this.#changed();
  }

  get(name) {
    return this.#pairs.find(([key]) => key === String(name))?.[1] ?? null;
  }

  getAll(name) {
    return this.#pairs.filter(([key]) => key === String(name)).map(([, value]) => value);
  }

  has(name, value = undefined) {
    return this.getAll(name).some((one) => value === undefined || one === String(value));
  }

  set(name, value) {
    const [wanted, text] = textPair([name, value]);
    const at = this.#pairs.findIndex(([key]) => key === wanted);
    if (at < 0) return this.append(name, value);
    this.#pairs[at][1] = text;
    this.#pairs = this.#pairs.filter(([key], index) => key !== wanted || index === at);
    this.#changed();
  }

  sort() {
    this.#pairs.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    this.#changed();
  }

  forEach(call, self = undefined) {
    for (const [name, value] of this.#pairs) call.call(self, value, name, this);
  }

  *entries() {
    for (const [name, value] of this.#pairs) yield [name, value];
  }

  *keys() {
    for (const [name] of this.#pairs) yield name;
  }

  *values() {
    for (const [, value] of this.#pairs) yield value;
  }

  [Symbol.iterator]() {
    return this.entries();
  }

  toString() {
    const encoded = (text) =>
      encodeURIComponent(text)
        .replace(/%20/g, "+")
        .replace(/[!'()~]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
    return this.#pairs.map(([name, value]) => `${encoded(name)}=${encoded(value)}`).join("&");
  }

  // What its URL says now.
  static _refill(params, text) {
    params.#pairs = parsedQuery(text);
  }

  get [Symbol.toStringTag]() {
    return "URLSearchParams";
  }
}

function textPair(pair) {
  const [name, value, ...rest] = pair;
  if (value === undefined || rest.length > 0) throw new TypeError("a pair is a name and a value");
  return [String(name).toWellFormed(), String(value).toWellFormed()];
}

function parsedQuery(text) {
  const decoded = (part) => {
    return part
      .replace(/\+/g, " ")
      .replace(/(?:%[0-9A-Fa-f]{2})+/g, (run) => {
        const bytes = run.slice(1).split("%").map((pair) => parseInt(pair, 16));
        return native.decode(binaryOf(Uint8Array.from(bytes)), false);
      });
  };
  return text
    .toWellFormed()
    .replace(/^\?/, "")
    .split("&")
    .filter((part) => part !== "")
    .map((part) => {
      const at = part.indexOf("=");
      return at < 0
        ? [decoded(part), ""]
        : [decoded(part.slice(0, at)), decoded(part.slice(at + 1))];
    });
}

class URL {
  #parts;
  #params;

  constructor(url, base = undefined) {
    this.#parts = urlParts(url, base);
    if (!this.#parts) throw new TypeError(`${url} is no URL`);
    this.#params = new URLSearchParams(this.#parts.search, () => {
      this.#change("search", this.#params.toString());
    });
  }

  static canParse(url, base = undefined) {
    return urlParts(url, base) !== null;
  }

  static parse(url, base = undefined) {
    return URL.canParse(url, base) ? new URL(url, base) : null;
  }

  #change(part, value) {
    const json = native.urlWith(this.#parts.href, part, value);
    if (!json) throw new TypeError(`${value} is no URL`);
    this.#parts = JSON.parse(json);
  }

  #set(part, value) {
    this.#change(part, String(value).toWellFormed());
    if (part === "href" || part === "search") {
      URLSearchParams._refill(this.#params, this.#parts.search);
    }
  }

  get searchParams() {
    return this.#params;
  }

  toString() {
    return this.#parts.href;
  }

  toJSON() {
    return this.#parts.href;
  }

  get [Symbol.toStringTag]() {
    return "URL";
  }

  static {
    const settable = ["href", "protocol", "username", "password", "host", "hostname", "port",
      "pathname", "search", "hash"];
    for (const part of [...settable, "origin"]) {
      const property = {
        get() {
          return this.#parts[part];
        },
        enumerable: true,
        configurable: true,
      };
      if (part !== "origin") {
        property.set = function (value) {
          this.#set(part, value);
        };
      }
      Object.defineProperty(URL.prototype, part, property);
    }
  }
}

function urlParts(url, base) {
  const text = (value) => String(value).toWellFormed();
  const json = native.url(text(url), base === undefined ? undefined : text(base));
  return json ? JSON.parse(json) : null;
}
