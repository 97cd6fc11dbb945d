// crypto.subtle: digests, HMAC (WebCrypto). All of the cryptography is native.

const HASHES = ["SHA-1", "SHA-256", "SHA-384", "SHA-512"];
// A generated key is as long as a block of its hash.
const BLOCK_BITS = { "SHA-1": 512, "SHA-256": 512, "SHA-384": 1024, "SHA-512": 1024 };
const KEY_USAGES = ["sign", "verify"];

class CryptoKey {
  #binary;
  #algorithm;
  #extractable;
  #usages;

  constructor(binary, algorithm, extractable, usages, made = undefined) {
    if (made !== MADE_HERE) throw new TypeError("crypto.subtle makes keys");
    this.#binary = binary;
    this.#algorithm = algorithm;
    this.#extractable = extractable;
    this.#usages = usages;
  }

  get type() {
    return "secret";
  }

  get extractable() {
    return this.#extractable;
  }

  get algorithm() {
    return this.#algorithm;
  }

  get usages() {
    return [...this.#usages];
  }

  static _binary(key) {
    return key.#binary;
  }
}

class SubtleCrypto {
  async digest(algorithm, data) {
    const hash = hashOf(algorithm);
    return native.digest(hash, binaryOf(bytesOf(data))).buffer;
  }

  async importKey(format, data, algorithm, extractable, usages) {
    onlyRaw(format);
    const hash = hashOfHmac(algorithm);
    const bytes = bytesOf(data);
    const isWhole = algorithm.length === undefined || algorithm.length === bytes.length * 8;
    if (bytes.length === 0 || !isWhole) {
      throw new DOMException("the key has another length", "DataError");
    }
    return hmacKey(bytes, hash, extractable, usages);
  }

  async generateKey(algorithm, extractable, usages) {
    const hash = hashOfHmac(algorithm);
    const bits = algorithm.length === undefined ? BLOCK_BITS[hash] : Number(algorithm.length);
    if (!Number.isInteger(bits) || bits < 8 || bits % 8 !== 0 || bits > RANDOM_BYTES_MAX * 8) {
      throw new DOMException("a key is some whole bytes long", "OperationError");
    }
    return hmacKey(native.random(bits / 8), hash, extractable, usages);
  }

  async exportKey(format, key) {
    onlyRaw(format);
    if (!(key instanceof CryptoKey)) throw new TypeError("exportKey takes a CryptoKey");
    if (!key.extractable) throw new DOMException("this key stays here", "InvalidAccessError");
    const binary = CryptoKey._binary(key);
    return Uint8Array.from(binary, (character) => character.charCodeAt(0)).buffer;
  }

  async sign(algorithm, key, data) {
    const { hash, secret } = keyFor("sign", algorithm, key);
    return native.hmac(hash, secret, binaryOf(bytesOf(data))).buffer;
  }

  async verify(algorithm, key, signature, data) {
    const { hash, secret } = keyFor("verify", algorithm, key);
    const [message, claimed] = [data, signature].map((bytes) => binaryOf(bytesOf(bytes)));
    return native.hmacVerify(hash, secret, message, claimed);
  }
}

function nameOf(algorithm) {
  const name = typeof algorithm === "object" && algorithm !== null ? algorithm.name : algorithm;
  return String(name).toUpperCase();
}

function hashOf(algorithm) {
  const name = nameOf(algorithm);
  if (HASHES.includes(name)) return name;
  throw new DOMException(`${name}: there are ${HASHES.join(", ")}`, "NotSupportedError");
}

function hashOfHmac(algorithm) {
  onlyHmac(algorithm);
  return hashOf(algorithm.hash);
}

function onlyHmac(algorithm) {
  if (nameOf(algorithm) === "HMAC") return;
  throw new DOMException(`${nameOf(algorithm)}: keys are for HMAC`, "NotSupportedError");
}

function onlyRaw(format) {
  if (format === "raw") return;
  throw new DOMException(`${format}: keys come and go as "raw"`, "NotSupportedError");
}

function hmacKey(bytes, hash, extractable, usages) {
  const wanted = [...(usages ?? [])];
  if (wanted.length === 0 || !wanted.every((usage) => KEY_USAGES.includes(usage))) {
    throw new DOMException(`usages are of ${KEY_USAGES.join(", ")}`, "SyntaxError");
  }
  const kinds = KEY_USAGES.filter((usage) => wanted.includes(usage));
  const algorithm = { name: "HMAC", hash: { name: hash }, length: bytes.length * 8 };
  return new CryptoKey(binaryOf(bytes), algorithm, Boolean(extractable), kinds, MADE_HERE);
}

function keyFor(usage, algorithm, key) {
  onlyHmac(algorithm);
  if (!(key instanceof CryptoKey)) throw new TypeError(`${usage} takes a CryptoKey`);
  if (!key.usages.includes(usage)) {
    throw new DOMException(`this key is not made to ${usage}`, "InvalidAccessError");
  }
  return { hash: key.algorithm.hash.name, secret: CryptoKey._binary(key) };
}

return { CryptoKey, subtle: new SubtleCrypto() };
