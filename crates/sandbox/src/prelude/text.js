// Text and bytes: TextEncoder, TextDecoder, atob, btoa; values as JSON.

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
    this.fatal = Boolean(options?.fatal);
    this.ignoreBOM = Boolean(options?.ignoreBOM);
  }

  decode(input = new Uint8Array()) {
    const text = native.decode(binaryOf(bytesOf(input)), this.fatal);
    return this.ignoreBOM ? text : withoutMark(text);
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
