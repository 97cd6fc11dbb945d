// structuredClone: copies of data with all its shapes and circles. What is no data is refused.

const ERRORS = { EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };

function structuredClone(value, options = {}) {
  const moved = [...(options?.transfer ?? [])];
  if (!moved.every((one) => one instanceof ArrayBuffer)) throw notCloned("what is transferred");
  const copy = cloned(value, new Map());
  for (const buffer of moved) buffer.transfer();
  return copy;
}

function notCloned(what) {
  return new DOMException(`${what} cannot be cloned`, "DataCloneError");
}

function cloned(value, seen) {
  if (typeof value === "function" || typeof value === "symbol") {
    throw notCloned(`a ${typeof value}`);
  }
  if (value === null || typeof value !== "object") return value;
  if (seen.has(value)) return seen.get(value);
  const keep = (copy) => (seen.set(value, copy), copy);
  if (value instanceof Date) return keep(new MachineDate(+value));
  if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags));
  if ([Boolean, Number, String, BigInt].some((kind) => value instanceof kind)) {
    return keep(Object(value.valueOf()));
  }
  if (value instanceof ArrayBuffer) return keep(value.slice(0));
  if (ArrayBuffer.isView(value)) return keep(clonedView(value, seen));
  if (value instanceof Error) return clonedError(value, seen, keep);
  if (value instanceof Map) {
    const copy = keep(new Map());
    for (const [key, one] of [...value]) copy.set(cloned(key, seen), cloned(one, seen));
    return copy;
  }
  if (value instanceof Set) {
    const copy = keep(new Set());
    for (const one of [...value]) copy.add(cloned(one, seen));
    return copy;
  }
  const machinery = [Promise, WeakMap, WeakSet, WeakRef, Headers, Body, URL, URLSearchParams,
    EventTarget, AbortController];
  if (isLater("Blob", value)) return keep(later("bodies").copyOfBlob(value));
  const kind = machinery.find((one) => value instanceof one)?.name
    ?? ["CryptoKey", "FormData", "ReadableStream"].find((name) => isLater(name, value));
  if (kind) throw notCloned(`a ${kind}`);
  const copy = keep(Array.isArray(value) ? new Array(value.length) : {});
  for (const key of Object.keys(value)) {
    const one = cloned(value[key], seen);
    const property = { value: one, writable: true, enumerable: true, configurable: true };
    Object.defineProperty(copy, key, property);
  }
  return copy;
}

// Views that share their bytes do so as copies.
function clonedView(view, seen) {
  const buffer = cloned(view.buffer, seen);
  const length = view instanceof DataView ? view.byteLength : view.length;
  return new globalThis[kindOfView(view)](buffer, view.byteOffset, length);
}

function clonedError(error, seen, keep) {
  const kind = Object.hasOwn(ERRORS, error.name) ? ERRORS[error.name] : Error;
  const copy = keep(
    error instanceof DOMException
      ? new DOMException(error.message, error.name)
      : new kind(String(error.message)),
  );
  const hidden = (value) => ({ value, writable: true, configurable: true });
  Object.defineProperty(copy, "stack", hidden(String(error.stack)));
  if (Object.hasOwn(error, "cause")) {
    Object.defineProperty(copy, "cause", hidden(cloned(error.cause, seen)));
  }
  return copy;
}

return { structuredClone };
