// crypto: randomness (WebCrypto); `subtle` is read later.

const RANDOM_BYTES_MAX = 65_536;

const crypto = {
  get subtle() {
    return later("subtle").subtle;
  },

  getRandomValues(array) {
    const isWhole = ArrayBuffer.isView(array) && /^(Big)?(Ui|I)nt/.test(kindOfView(array));
    if (!isWhole) {
      throw new DOMException("getRandomValues takes an array of integers", "TypeMismatchError");
    }
    if (array.byteLength > RANDOM_BYTES_MAX) {
      throw new DOMException(`at most ${RANDOM_BYTES_MAX} bytes`, "QuotaExceededError");
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

function kindOfView(view) {
  return view instanceof DataView ? "DataView" : Object.prototype.toString.call(view).slice(8, -1);
}
