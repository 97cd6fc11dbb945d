// URL and URLSearchParams (WHATWG). The parsing is native.

class URLSearchParams {
  #pairs = [];
  #changed = () => {};

  constructor(init = "", changed = undefined) {
    if (changed) this.#changed = changed;
    if (typeof init === "object" && init !== null) {
      const pairs = typeof init[Symbol.iterator] === "function" ? init : Object.entries(init);
      for (const [name, value] of pairs) this.#pairs.push([String(name), String(value)]);
    } else {
      this.#pairs = parsedQuery(String(init));
    }
  }

  get size() {
    return this.#pairs.length;
  }

  append(name, value) {
    this.#pairs.push([String(name), String(value)]);
    this.#changed();
  }

  delete(name, value = undefined) {
    const isIt = ([key, one]) => key === name && (value === undefined || one === value);
    this.#pairs = this.#pairs.filter((pair) => !isIt(pair));
    this.#changed();
  }

  get(name) {
    return this.#pairs.find(([key]) => key === name)?.[1] ?? null;
  }

  getAll(name) {
    return this.#pairs.filter(([key]) => key === name).map(([, value]) => value);
  }

  has(name, value = undefined) {
    return this.getAll(name).some((one) => value === undefined || one === value);
  }

  set(name, value) {
    const at = this.#pairs.findIndex(([key]) => key === name);
    if (at < 0) return this.append(name, value);
    this.#pairs[at][1] = String(value);
    this.#pairs = this.#pairs.filter(([key], index) => key !== name || index === at);
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
      encodeURIComponent(text.toWellFormed())
        .replace(/%20/g, "+")
        .replace(/[!'()~]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
    return this.#pairs.map(([name, value]) => `${encoded(name)}=${encoded(value)}`).join("&");
  }
}

function parsedQuery(text) {
  const decoded = (part) => {
    const bytes = [];
    const plain = part.replace(/\+/g, " ");
    for (let at = 0; at < plain.length; at += 1) {
      const pair = plain.slice(at + 1, at + 3);
      if (plain[at] === "%" && /^[0-9A-Fa-f]{2}$/.test(pair)) {
        bytes.push(parseInt(pair, 16));
        at += 2;
      } else {
        const point = plain.codePointAt(at);
        const character = String.fromCodePoint(point);
        bytes.push(...native.encode(character.toWellFormed()));
        at += character.length - 1;
      }
    }
    return native.decode(binaryOf(Uint8Array.from(bytes)), false);
  };
  return text
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
    const json = native.url(String(url), base === undefined ? undefined : String(base));
    if (!json) throw new TypeError(`${url} is no URL`);
    this.#parts = JSON.parse(json);
    this.#params = this.#freshParams();
  }

  static canParse(url, base = undefined) {
    return Boolean(native.url(String(url), base === undefined ? undefined : String(base)));
  }

  #freshParams() {
    return new URLSearchParams(this.#parts.search, () => {
      this.#parts = JSON.parse(
        native.urlWith(this.#parts.href, "search", this.#params.toString()),
      );
    });
  }

  #set(part, value) {
    const json = native.urlWith(this.#parts.href, part, String(value));
    if (!json) throw new TypeError(`${value} is no URL`);
    this.#parts = JSON.parse(json);
    if (part === "href" || part === "search") this.#params = this.#freshParams();
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
