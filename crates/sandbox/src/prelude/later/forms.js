// Blob, File (W3C File API), FormData (WHATWG XMLHttpRequest), and forms as bodies.

class Blob {
  #bytes;
  #type;

  constructor(parts = [], options = undefined) {
    if (typeof parts !== "object" || typeof parts?.[Symbol.iterator] !== "function") {
      throw new TypeError("a Blob is made of a list of parts");
    }
    this.#bytes = joined(Array.from(parts, partBytes));
    const type = String(options?.type ?? "");
    this.#type = /^[\x20-\x7e]*$/.test(type) ? type.toLowerCase() : "";
  }

  get size() {
    return this.#bytes.length;
  }

  get type() {
    return this.#type;
  }

  slice(start = 0, end = this.size, type = "") {
    return new Blob([this.#bytes.slice(start, end)], { type });
  }

  stream() {
    return streamOf(this.#bytes);
  }

  async bytes() {
    return this.#bytes.slice();
  }

  async arrayBuffer() {
    return this.#bytes.slice().buffer;
  }

  async text() {
    return withoutMark(native.decode(binaryOf(this.#bytes), false));
  }

  get [Symbol.toStringTag]() {
    return "Blob";
  }

  static _bytes(blob) {
    return blob.#bytes;
  }
}

function partBytes(part) {
  if (part instanceof Blob) return Blob._bytes(part);
  if (part instanceof ArrayBuffer || ArrayBuffer.isView(part)) return bytesOf(part);
  return native.encode(String(part).toWellFormed());
}

class File extends Blob {
  #name;
  #lastModified;

  constructor(parts, name, options = undefined) {
    if (name === undefined) throw new TypeError("a File has a name");
    super(parts, options);
    this.#name = String(name).toWellFormed();
    this.#lastModified = Math.trunc(Number(options?.lastModified ?? now())) || 0;
  }

  get name() {
    return this.#name;
  }

  get lastModified() {
    return this.#lastModified;
  }

  get [Symbol.toStringTag]() {
    return "File";
  }
}

// The same again: what is in it never changes.
function copyOfBlob(blob) {
  const { type, name, lastModified } = blob;
  if (blob instanceof File) return new File([blob], name, { type, lastModified });
  return new Blob([blob], { type });
}

class FormData {
  #fields = [];

  constructor(form = undefined) {
    if (form !== undefined) throw new TypeError("there are no forms of pages here");
  }

  append(name, value, filename = undefined) {
    this.#fields.push(field(name, value, filename));
  }

  set(name, value, filename = undefined) {
    const made = field(name, value, filename);
    const at = this.#fields.findIndex(([key]) => key === made[0]);
    if (at < 0) return void this.#fields.push(made);
    this.#fields[at] = made;
    this.#fields = this.#fields.filter(([key], index) => key !== made[0] || index === at);
  }

  get(name) {
    return this.getAll(name)[0] ?? null;
  }

  getAll(name) {
    return this.#fields.filter(([key]) => key === String(name)).map(([, value]) => value);
  }

  has(name) {
    return this.#fields.some(([key]) => key === String(name));
  }

  delete(name) {
    this.#fields = this.#fields.filter(([key]) => key !== String(name));
  }

  forEach(call, self = undefined) {
    for (const [name, value] of this.#fields) call.call(self, value, name, this);
  }

  *entries() {
    for (const [name, value] of this.#fields) yield [name, value];
  }

  *keys() {
    for (const [name] of this.#fields) yield name;
  }

  *values() {
    for (const [, value] of this.#fields) yield value;
  }

  [Symbol.iterator]() {
    return this.entries();
  }

  get [Symbol.toStringTag]() {
    return "FormData";
  }
}

// A name with a text or a File.
function field(name, value, filename) {
  const key = String(name).toWellFormed();
  if (!(value instanceof Blob)) {
    if (filename !== undefined) throw new TypeError("a filename is for a Blob");
    return [key, String(value).toWellFormed()];
  }
  if (value instanceof File && filename === undefined) return [key, value];
  const { type, lastModified } = value;
  return [key, new File([value], filename ?? "blob", { type, lastModified })];
}

// A form as the body of a request: multipart/form-data (RFC 7578).
function packedForm(form) {
  const random = Array.from(native.random(16), (byte) => byte.toString(16).padStart(2, "0"));
  const boundary = `----form-${random.join("")}`;
  const ended = (text) => text.replace(/\r\n|\r|\n/g, "\r\n");
  const escaped = (text) => {
    return text.replace(/\r/g, "%0D").replace(/\n/g, "%0A").replace(/"/g, "%22");
  };
  const parts = [];
  for (const [name, value] of form) {
    let head = `--${boundary}\r\nContent-Disposition: form-data; name="${escaped(ended(name))}"`;
    if (value instanceof File) {
      const type = value.type || "application/octet-stream";
      head += `; filename="${escaped(value.name)}"\r\nContent-Type: ${type}`;
    }
    parts.push(`${head}\r\n\r\n`, value instanceof File ? value : ended(value), "\r\n");
  }
  parts.push(`--${boundary}--\r\n`);
  const bytes = joined(parts.map(partBytes));
  return { bytes, type: `multipart/form-data; boundary=${boundary}` };
}

// A Blob as a body.
function packedBlob(blob) {
  return { bytes: Blob._bytes(blob), type: blob.type || null };
}

// The form that a body is.
function formOf(bytes, contentType) {
  const form = new FormData();
  const kind = contentType.split(";", 1)[0].trim().toLowerCase();
  if (kind === "application/x-www-form-urlencoded") {
    const text = native.decode(binaryOf(bytes), false);
    for (const [name, value] of parsedQuery(text)) form.append(name, value);
    return form;
  }
  const boundary = parameter(contentType, "boundary");
  if (kind !== "multipart/form-data" || !boundary) {
    throw new TypeError(`the body is no form, but ${contentType || "of no type"}`);
  }
  for (const part of partsOf(bytes, boundary)) form.append(...part);
  return form;
}

// What stands between the boundaries: names with texts or Files.
function partsOf(bytes, boundary) {
  const wrong = (why) => new TypeError(`the body is no form: ${why}`);
  const mark = `\r\n--${boundary}`;
  const pieces = `\r\n${binaryOf(bytes)}`.split(mark);
  if (pieces.length < 2 || !pieces.at(-1).startsWith("--")) throw wrong("it does not end");
  const parts = [];
  let at = pieces[0].length + mark.length - 2;
  for (const piece of pieces.slice(1, -1)) {
    const [head] = piece.split("\r\n\r\n", 1);
    const hasHead = /^[\t ]*\r\n/.test(head) && head.length < piece.length;
    if (!hasHead) throw wrong("a part has no head");
    const lines = native.decode(head, false);
    const about = /^content-disposition:([^\r\n]*)/im.exec(lines)?.[1] ?? "";
    const name = unescaped(parameter(about, "name"));
    if (name === null) throw wrong("a part has no name");
    const inner = bytes.slice(at + head.length + 4, at + piece.length);
    const filename = unescaped(parameter(about, "filename"));
    if (filename === null) {
      parts.push([name, native.decode(binaryOf(inner), false)]);
    } else {
      const type = /^content-type:[\t ]*([^\r\n]*)/im.exec(lines)?.[1] ?? "text/plain";
      parts.push([name, new File([inner], filename, { type })]);
    }
    at += piece.length + mark.length;
  }
  return parts;
}

// A parameter of a header. They are read one after the other: what is in quotes begins none.
function parameter(header, name) {
  const next = /\s*;\s*([^\s;="]+)=(?:"([^"]*)"|((?!")[^\s;]*))/gy;
  for (const [, key, quoted, plain] of header.replace(/^[^;]*/, "").matchAll(next)) {
    if (key.toLowerCase() === name) return quoted ?? plain;
  }
  return null;
}

function unescaped(value) {
  const meant = { "%0d": "\r", "%0a": "\n", "%22": '"' };
  return value?.replace(/%0d|%0a|%22/gi, (c) => meant[c.toLowerCase()]) ?? null;
}

return {
  Blob, File, FormData, ReadableStream, ReadableStreamDefaultReader, bytesOfStream, chunksOf,
  copyOfBlob, formOf, isTouched, packedBlob, packedForm, streamOf,
};
