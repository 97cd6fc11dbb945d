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

// What windows-1252 has at 0x80 to 0x9f; all else is as in Latin-1.
const WINDOWS_1252 = "€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ";

// The encodings by name: their labels (WHATWG Encoding), the text of bytes (as characters), and how
// many bytes at the end of a part may be the beginning of a character.
const ENCODINGS = {
  "utf-8": {
    labels: ["unicode-1-1-utf-8", "unicode11utf8", "unicode20utf8", "utf8", "x-unicode20utf8"],
    read: (binary, isFatal) => native.decode(binary, isFatal),
    open: (binary) => native.openEnd(binary.slice(-3)),
  },
  "windows-1252": {
    labels: ["ansi_x3.4-1968", "ascii", "cp1252", "cp819", "csisolatin1", "ibm819", "iso-8859-1",
      "iso-ir-100", "iso8859-1", "iso88591", "iso_8859-1", "iso_8859-1:1987", "l1", "latin1",
      "us-ascii", "x-cp1252"],
    read: (binary) => binary.replace(/[\x80-\x9f]/g, (c) => WINDOWS_1252[c.charCodeAt(0) - 0x80]),
    open: () => 0,
  },
  "utf-16le": {
    labels: ["csunicode", "iso-10646-ucs-2", "ucs-2", "unicode", "unicodefeff", "utf-16"],
    read: (binary, isFatal) => readUtf16(binary, isFatal, [0, 1]),
    open: (binary) => openUtf16(binary, 1),
  },
  "utf-16be": {
    labels: ["unicodefffe"],
    read: (binary, isFatal) => readUtf16(binary, isFatal, [1, 0]),
    open: (binary) => openUtf16(binary, 0),
  },
};

function encodingOf(label) {
  const wanted = String(label).trim().toLowerCase();
  const all = Object.entries(ENCODINGS);
  const found = all.find(([name, { labels }]) => name === wanted || labels.includes(wanted));
  if (found) return found[0];
  const known = Object.keys(ENCODINGS).join(", ");
  throw new RangeError(`the encoding ${label} is not supported: there are ${known}`);
}

function readUtf16(binary, isFatal, [low, high]) {
  const units = [];
  for (let at = 0; at + 1 < binary.length; at += 2) {
    units.push(binary.charCodeAt(at + low) + 256 * binary.charCodeAt(at + high));
  }
  let text = "";
  for (let at = 0; at < units.length; at += 8192) {
    text += String.fromCharCode.apply(null, units.slice(at, at + 8192));
  }
  // A byte that is left over is half of something, too.
  if (binary.length % 2 === 1) text += "\ud800";
  if (isFatal && !text.isWellFormed()) throw new TypeError("the bytes are no UTF-16");
  return text.toWellFormed();
}

function openUtf16(binary, high) {
  const odd = binary.length % 2;
  const last = binary.charCodeAt(binary.length - odd - 2 + high);
  return odd + (last >= 0xd8 && last <= 0xdb ? 2 : 0);
}

class TextDecoder {
  // Bytes that came and are no character yet, and whether the text has begun.
  #rest = "";
  #hasBegun = false;

  constructor(label = "utf-8", options = {}) {
    this.encoding = encodingOf(label);
    this.fatal = Boolean(options?.fatal);
    this.ignoreBOM = Boolean(options?.ignoreBOM);
  }

  decode(input = new Uint8Array(), options = {}) {
    const { read, open } = ENCODINGS[this.encoding];
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
