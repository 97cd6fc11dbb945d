// console: every value as people want to read it in a log.

const DEPTH_MAX = 4;
const ITEMS_MAX = 100;

function shown(value, depth = 0, seen = []) {
  switch (typeof value) {
    case "string":
      return depth === 0 ? value : JSON.stringify(value);
    case "bigint":
      return `${value}n`;
    case "symbol":
      return String(value);
    case "function":
      return `[function ${value.name || "anonymous"}]`;
    case "object":
      return value === null ? "null" : shownObject(value, depth, seen);
    default:
      return String(value);
  }
}

function shownObject(value, depth, seen) {
  if (seen.includes(value)) return "[circular]";
  if (value instanceof Error) return shownError(value, depth, seen);
  if (value instanceof Date) return Number.isNaN(+value) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp) return String(value);
  if (value instanceof Promise) return "Promise {}";
  if (depth >= DEPTH_MAX) return Array.isArray(value) ? "[…]" : "{…}";
  const inner = (one) => shown(one, depth + 1, [...seen, value]);
  if (Array.isArray(value) || ArrayBuffer.isView(value)) {
    return listed("[", Array.from(value).slice(0, ITEMS_MAX).map(inner), value.length, "]");
  }
  if (value instanceof Set) return listed("Set {", [...value].map(inner), value.size, "}");
  if (value instanceof Map) {
    const pairs = [...value].map(([key, one]) => `${inner(key)} => ${inner(one)}`);
    return listed("Map {", pairs, value.size, "}");
  }
  const name = value.constructor?.name;
  const keys = Object.keys(value);
  const pairs = keys.slice(0, ITEMS_MAX).map((key) => `${shownKey(key)}: ${inner(value[key])}`);
  return listed(name && name !== "Object" ? `${name} {` : "{", pairs, keys.length, "}");
}

function listed(open, items, count, close) {
  if (count > items.length) items.push(`… ${count - items.length} more`);
  if (items.length === 0) return open + close;
  return open === "[" ? `[${items.join(", ")}]` : `${open} ${items.join(", ")} ${close}`;
}

function shownKey(key) {
  return /^[A-Za-z_$][\w$]*$/.test(key) ? key : JSON.stringify(key);
}

function shownError(error, depth, seen) {
  const head = `${error.name}: ${error.message}`;
  const stack = error.stack ? `${head}\n${error.stack.trimEnd()}` : head;
  if (error.cause === undefined) return stack;
  return `${stack}\n  caused by ${shown(error.cause, depth + 1, [...seen, error])}`;
}

const console = {};
for (const level of ["debug", "log", "info", "warn", "error"]) {
  console[level] = (...values) => {
    native.log(level, values.map((value) => shown(value)).join(" ").toWellFormed());
  };
}
console.trace = console.debug;
