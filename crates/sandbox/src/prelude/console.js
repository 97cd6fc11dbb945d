// console: every value as people want to read it in a log.

const DEPTH_MAX = 4;
const ITEMS_MAX = 100;
// More objects than this are not looked at for one line.
const OBJECTS_MAX = 10_000;
// A longer line is cut: it must fit into one frame to the parent, whatever its characters are.
const LINE_CHARS_MAX = 256 * 1024;

let objectsLeft = OBJECTS_MAX;

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
      return Object.is(value, -0) ? "-0" : String(value);
  }
}

function shownObject(value, depth, seen) {
  if (seen.includes(value)) return "[circular]";
  if (value instanceof Error) return shownError(value, depth, seen);
  if (value instanceof Date) return Number.isNaN(+value) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp || value instanceof URL) return String(value);
  if (value instanceof Promise) return "Promise {}";
  objectsLeft -= 1;
  if (depth >= DEPTH_MAX || objectsLeft < 0) return Array.isArray(value) ? "[…]" : "{…}";
  const inner = (one) => shown(one, depth + 1, [...seen, value]);
  if (value instanceof ArrayBuffer) return `ArrayBuffer { ${value.byteLength} bytes }`;
  if (Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView))) {
    const items = Array.prototype.slice.call(value, 0, ITEMS_MAX);
    return listed("[", Array.from(items, inner), value.length, "]");
  }
  if (value instanceof Set) return listed("Set {", firstOf(value).map(inner), value.size, "}");
  if (value instanceof Map) {
    const pairs = firstOf(value).map(([key, one]) => `${inner(key)} => ${inner(one)}`);
    return listed("Map {", pairs, value.size, "}");
  }
  if (isLater("Blob", value)) return `${value.constructor.name} { ${value.size} bytes }`;
  const isForm = isLater("FormData", value);
  const isPairs = value instanceof Headers || value instanceof URLSearchParams || isForm;
  const entries = isPairs ? [...value] : Object.keys(value).map((key) => [key]);
  const pairs = entries.slice(0, ITEMS_MAX).map(([key, text]) => {
    return `${shownKey(key)}: ${isPairs ? inner(text) : shownProperty(value, key, inner)}`;
  });
  const name = value.constructor?.name;
  return listed(name && name !== "Object" ? `${name} {` : "{", pairs, entries.length, "}");
}

// What is computed is not: looking at a value does not run its code.
function shownProperty(value, key, inner) {
  const property = Object.getOwnPropertyDescriptor(value, key);
  return property?.get ? "[getter]" : inner(value[key]);
}

function firstOf(items) {
  const first = [];
  for (const item of items) {
    if (first.length === ITEMS_MAX) break;
    first.push(item);
  }
  return first;
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
  const stack = error.stack ? `${head}\n${String(error.stack).trimEnd()}` : head;
  if (error.cause === undefined) return stack;
  return `${stack}\n  caused by ${shown(error.cause, depth + 1, [...seen, error])}`;
}

// The values of one line; a text that comes first may have marks: %s %d %i %f %o %O %j %c %%.
function formatted(values) {
  objectsLeft = OBJECTS_MAX;
  const rest = [...values];
  if (typeof rest[0] !== "string" || rest.length === 1) {
    return rest.map((value) => shown(value)).join(" ");
  }
  const text = rest.shift().replace(/%[sdifoOjc%]/g, (mark) => {
    if (mark === "%%") return "%";
    return rest.length === 0 ? mark : filled(mark, rest.shift());
  });
  return [text, ...rest.map((value) => shown(value))].join(" ");
}

function filled(mark, value) {
  const number = typeof value === "object" || typeof value === "symbol" ? NaN : value;
  switch (mark) {
    case "%s":
      return shown(value);
    case "%d":
      return typeof number === "bigint" ? `${number}n` : String(Number(number));
    case "%i":
      return typeof number === "bigint" ? `${number}n` : String(parseInt(number, 10));
    case "%f":
      return String(parseFloat(number));
    case "%c":
      return "";
    default:
      return shown(value, 1);
  }
}

let indent = "";
const stopwatches = new Map();
const counts = new Map();

function printed(level, text) {
  let line = indent === "" ? text : text.replace(/^/gm, indent);
  if (line.length > LINE_CHARS_MAX) {
    line = `${line.slice(0, LINE_CHARS_MAX)}… ${line.length - LINE_CHARS_MAX} characters more`;
  }
  native.log(level, line.toWellFormed());
}

const console = {
  trace(...values) {
    const stack = String(new Error().stack ?? "").trimEnd();
    printed("debug", `${["Trace:", formatted(values)].join(" ").trimEnd()}\n${stack}`);
  },
  dir(value) {
    printed("log", formatted([value]));
  },
  table(rows, columns = undefined) {
    const isTable = typeof rows === "object" && rows !== null;
    printed("log", isTable ? tableOf(rows, columns) : formatted([rows]));
  },
  assert(isTrue, ...values) {
    if (isTrue) return;
    printed("error", ["Assertion failed", formatted(values)].filter(Boolean).join(": "));
  },
  group(...label) {
    if (label.length > 0) printed("log", formatted(label));
    indent += "  ";
  },
  groupEnd() {
    indent = indent.slice(2);
  },
  time(label = "default") {
    stopwatches.set(String(label), native.now());
  },
  timeLog(label = "default", ...values) {
    const began = stopwatches.get(String(label));
    if (began === undefined) return printed("warn", `there is no timer ${label}`);
    const took = `${label}: ${(native.now() - began).toFixed(3)}ms`;
    printed("log", values.length === 0 ? took : `${took} ${formatted(values)}`);
  },
  timeEnd(label = "default") {
    console.timeLog(label);
    stopwatches.delete(String(label));
  },
  count(label = "default") {
    const count = (counts.get(String(label)) ?? 0) + 1;
    counts.set(String(label), count);
    printed("log", `${label}: ${count}`);
  },
  countReset(label = "default") {
    counts.delete(String(label));
  },
};
for (const level of ["debug", "log", "info", "warn", "error"]) {
  console[level] = (...values) => printed(level, formatted(values));
}
console.groupCollapsed = console.group;

// Rows below each other, cells below their column's name.
function tableOf(rows, wanted) {
  objectsLeft = OBJECTS_MAX;
  const isRow = (row) => typeof row === "object" && row !== null;
  const entries = (rows instanceof Map ? firstOf(rows) : Object.entries(rows)).slice(0, ITEMS_MAX);
  const named = entries.flatMap(([, row]) => (isRow(row) ? Object.keys(row) : []));
  const columns = [...new Set(wanted ?? named)].slice(0, ITEMS_MAX);
  const hasValues = entries.some(([, row]) => !isRow(row));
  const lines = [["", ...columns, ...(hasValues ? ["value"] : [])]];
  for (const [key, row] of entries) {
    const cell = (name) => (isRow(row) && name in row ? shown(row[name], DEPTH_MAX - 1) : "");
    const value = isRow(row) ? "" : shown(row, DEPTH_MAX - 1);
    lines.push([shown(key), ...columns.map(cell), ...(hasValues ? [value] : [])]);
  }
  const widths = lines[0].map((_, at) => Math.max(...lines.map((cells) => cells[at].length)));
  const padded = (cells) => cells.map((cell, at) => cell.padEnd(widths[at])).join("  ").trimEnd();
  return lines.map(padded).join("\n");
}
