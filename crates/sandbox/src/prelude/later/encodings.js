// What TextDecoder reads beside UTF-8.

// What windows-1252 has at 0x80 to 0x9f; all else is as in Latin-1.
const WINDOWS_1252 = "€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ";

// All encodings by name, with their labels (WHATWG Encoding).
const ENCODINGS = {
  "utf-8": {
    labels: ["unicode-1-1-utf-8", "unicode11utf8", "unicode20utf8", "utf8", "x-unicode20utf8"],
    ...UTF_8,
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
  for (const [name, encoding] of Object.entries(ENCODINGS)) {
    if (name === label || encoding.labels.includes(label)) return { name, ...encoding };
  }
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

return { encodingOf };
