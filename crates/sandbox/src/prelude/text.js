// Text and bytes: TextEncoder, TextDecoder, atob, btoa; values as JSON.

class TextEncoder {
  get encoding() {
    return "utf-8";
  }

  encode(text = "") {
    return native.encode(String(text).toWellFormed());
  }

  // As many whole characters as there is room for.
  encodeInto(text, target) {
    if (!(target instanceof Uint8Array)) throw new TypeError("encodeInto takes a Uint8Array");
    // A character has a byte at least.
    const bytes = this.encode(String(text).slice(0, target.length));
    let written = Math.min(bytes.length, target.length);
    while (written < bytes.length && isInside(bytes[written])) written -= 1;
    const whole = bytes.subarray(0, written);
    target.set(whole);
    return { read: native.decode(binaryOf(whole), false).length, written };
  }
}

// Whether a byte of UTF-8 begins no character.
function isInside(byte) {
  return (byte & 0xc0) === 0x80;
}

// How UTF-8 is read: the text of bytes (as characters), and how many bytes at the end of a part may
// be the beginning of a character.
const UTF_8 = {
  name: "utf-8",
  read: (binary, isFatal) => native.decode(binary, isFatal),
  open: (binary) => native.openEnd(binary.slice(-3)),
};

function encodingOf(label) {
  const wanted = String(label).trim().toLowerCase();
  return ["utf-8", "utf8"].includes(wanted) ? UTF_8 : later("encodings").encodingOf(wanted);
}

class TextDecoder {
  #encoding;
  // Bytes that came and are no character yet, and whether the text has begun.
  #rest = "";
  #hasBegun = false;

  constructor(label = "utf-8", options = {}) {
    this.#encoding = encodingOf(label);
    this.encoding = this.#encoding.name;
    this.fatal = Boolean(options?.fatal);
    this.ignoreBOM = Boolean(options?.ignoreBOM);
  }

  decode(input = new Uint8Array(), options = {}) {
    const { read, open } = this.#encoding;
    const binary = this.#rest + binaryOf(bytesOf(input));
    const isFirst = !this.#hasBegun;
    this.#rest = "";
    this.#hasBegun = false;
    const end = options?.stream ? binary.length - open(binary) : binary.length;
    const text = read(binary.slice(0, end), this.fatal);
    if (options?.stream) {
      this.#rest = binary.slice(end);
      this.#hasBegun = !isFirst || text !== "";
    }
    return isFirst && !this.ignoreBOM ? withoutMark(text) : text;
  }
}

// A byte order mark is no part of the text.
function withoutMark(text) {
  return text.startsWith("\ufeff") ? text.slice(1) : text;
}

// The bytes as they are now: what the script changes later does not reach them.
function bytesOf(input) {
  if (input instanceof ArrayBuffer) return new Uint8Array(input).slice();
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
  if (/[^\0-\xff]/.test(binary)) {
    throw new DOMException("btoa takes characters up to U+00FF", "InvalidCharacterError");
  }
  return native.toBase64(binary);
}

function atob(text) {
  const base64 = String(text).replace(/[\t\n\f\r ]/g, "");
  const isRight = !base64.includes("=") || base64.length % 4 === 0;
  const bytes = isRight && native.fromBase64(base64.toWellFormed());
  if (!bytes) throw new DOMException("atob takes base64", "InvalidCharacterError");
  return binaryOf(bytes);
}

// As JSON.stringify, with U+FFFD for what is half a character, in names too: others who read JSON
// know no half characters.
function jsonOf(value) {
  const json = JSON.stringify(value);
  if (!json?.includes("\\ud")) return json;
  return json.replace(/\\(?:ud[89a-f]..|[^])/g, (escape) => escape.length > 2 ? "\ufffd" : escape);
}
