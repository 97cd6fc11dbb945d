// Text and bytes: TextEncoder, TextDecoder, atob, btoa, crypto, structuredClone.

class TextEncoder {
  get encoding() {
    return "utf-8";
  }

  encode(text = "") {
    return native.encode(String(text).toWellFormed());
  }
}

class TextDecoder {
  constructor(label = "utf-8", options = {}) {
    if (!["utf-8", "utf8"].includes(String(label).trim().toLowerCase())) {
      throw new RangeError(`the encoding ${label} is not supported: only utf-8 is`);
    }
    this.encoding = "utf-8";
    this.fatal = Boolean(options.fatal);
    this.ignoreBOM = Boolean(options.ignoreBOM);
  }

  decode(input = new Uint8Array()) {
    const text = native.decode(binaryOf(bytesOf(input)), this.fatal);
    return !this.ignoreBOM && text.startsWith("\ufeff") ? text.slice(1) : text;
  }
}

function bytesOf(input) {
  if (input instanceof ArrayBuffer) return new Uint8Array(input);
  if (ArrayBuffer.isView(input)) {
    return new Uint8Array(input.buffer, input.byteOffset, input.byteLength).slice();
  }
  throw new TypeError("an ArrayBuffer or a view of one is wanted");
}

// Bytes as a text of one character each: how they travel to native code.
function binaryOf(bytes) {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    binary += String.fromCharCode.apply(null, bytes.subarray(at, at + 8192));
  }
  return binary;
}

function btoa(text) {
  const binary = String(text);
  if (/[^\0-\xff]/.test(binary)) throw new RangeError("btoa takes characters up to U+00FF");
  return native.toBase64(binary);
}

function atob(text) {
  const bytes = native.fromBase64(String(text).replace(/[\t\n\f\r ]/g, ""));
  if (!bytes) throw new RangeError("atob takes base64");
  return binaryOf(bytes);
}

const crypto = {
  getRandomValues(array) {
    if (!ArrayBuffer.isView(array) || array.byteLength > 65536) {
      throw new TypeError("getRandomValues takes a typed array of at most 65536 bytes");
    }
    const target = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    target.set(native.random(array.byteLength));
    return array;
  },

  randomUUID() {
    const bytes = native.random(16);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
  },
};

function structuredClone(value) {
  return cloned(value, new Map());
}

function cloned(value, seen) {
  if (typeof value === "function" || typeof value === "symbol") {
    throw new TypeError(`a ${typeof value} cannot be cloned`);
  }
  if (value === null || typeof value !== "object") return value;
  if (seen.has(value)) return seen.get(value);
  const keep = (copy) => (seen.set(value, copy), copy);
  if (value instanceof Date) return keep(new Date(value));
  if (value instanceof RegExp) return keep(new RegExp(value));
  if (value instanceof ArrayBuffer) return keep(value.slice(0));
  if (ArrayBuffer.isView(value)) return keep(value.slice());
  if (value instanceof Error) {
    return keep(Object.assign(new value.constructor(value.message), { stack: value.stack }));
  }
  if (value instanceof Map) {
    const copy = keep(new Map());
    for (const [key, one] of value) copy.set(cloned(key, seen), cloned(one, seen));
    return copy;
  }
  if (value instanceof Set) {
    const copy = keep(new Set());
    for (const one of value) copy.add(cloned(one, seen));
    return copy;
  }
  const copy = keep(Array.isArray(value) ? [] : {});
  for (const key of Object.keys(value)) copy[key] = cloned(value[key], seen);
  return copy;
}
