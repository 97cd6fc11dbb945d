// DB: the app's objects, of which there is one type, user. Queries are asked when they are awaited,
// not when they are made.

const PAGE_MAX = 1000;
const BATCH_MAX = 1000;
// These are the server's to set.
const OWN_FIELDS = ["id", "type", "updated_at", "display"];

// What the server has of an object: its type and, once saved, each attribute as JSON.
const objectStates = new WeakMap();

class DbObject {
  constructor(type, made = undefined) {
    if (made !== MADE_HERE) throw new TypeError("objects are made by DB, as with DB.user.create()");
    objectStates.set(this, { type, saved: null });
  }

  // Creates the object, or sends what has changed, if anything has.
  async save() {
    const { type, saved } = stateOf(this);
    const changes = changesOf(this);
    if (!saved) {
      fill(this, await askApi("POST", `/objects/${type}.json`, { [type]: changes }));
    } else if (Object.keys(changes).length > 0) {
      fill(this, await askApi("PATCH", pathOf(this), { [type]: changes }));
    }
    return this;
  }

  async destroy() {
    await askApi("DELETE", pathOf(this));
  }

  // Reads the object again; what was not saved is lost.
  async reload() {
    fill(this, await askApi("GET", pathOf(this)));
    return this;
  }
}

function stateOf(object) {
  const state = objectStates.get(object);
  if (!state) throw new TypeError("this is no object of DB");
  return state;
}

function pathOf(object) {
  const { type, saved } = stateOf(object);
  if (!saved) throw new Error(`this ${type} was never saved`);
  return objectPath(type, object.id);
}

function objectPath(type, id) {
  return `/objects/${type}/${encodeURIComponent(String(id).toWellFormed())}.json`;
}

function newObject(type, attributes) {
  const object = new DbObject(type, MADE_HERE);
  for (const name of OWN_FIELDS) {
    if (Object.hasOwn(attributes, name)) throw new TypeError(`${name} is the server's to set`);
    setOwnField(object, name, name === "type" ? type : null);
  }
  for (const [name, value] of Object.entries(attributes)) setAttribute(object, name, value);
  return object;
}

function savedObject(type, answer) {
  const object = new DbObject(type, MADE_HERE);
  fill(object, answer);
  return object;
}

function setOwnField(object, name, value) {
  Object.defineProperty(object, name, { value, enumerable: true, configurable: true });
}

function setAttribute(object, name, value) {
  const property = { value, enumerable: true, configurable: true, writable: true };
  Object.defineProperty(object, name, property);
}

// Makes an object what the server says it is.
function fill(object, answer) {
  if (typeof answer?.id !== "string") throw new Error("the API answered without an object");
  for (const name of Object.keys(object)) {
    if (!Object.hasOwn(answer, name)) delete object[name];
  }
  const saved = new Map();
  for (const [name, value] of Object.entries(answer)) {
    if (OWN_FIELDS.includes(name)) {
      setOwnField(object, name, value);
    } else {
      setAttribute(object, name, value);
      saved.set(name, JSON.stringify(value));
    }
  }
  stateOf(object).saved = saved;
}

// Attributes that the server does not have, or has otherwise; null for what is gone.
function changesOf(object) {
  const saved = stateOf(object).saved ?? new Map();
  const changes = {};
  for (const [name, value] of Object.entries(object)) {
    if (OWN_FIELDS.includes(name) || (value === undefined && !saved.has(name))) continue;
    const sent = apiValue(value ?? null, name);
    if (JSON.stringify(sent) !== saved.get(name)) changes[name] = sent;
  }
  for (const [name, json] of saved) {
    if (!Object.hasOwn(object, name) && json !== "null") changes[name] = null;
  }
  return changes;
}

// A question about objects of a type. Each method that narrows it answers a new one.
class Query {
  #type;
  #conditions = [];
  #order = [];
  #limit = null;
  #skip = 0;

  constructor(type, made = undefined) {
    if (made !== MADE_HERE) throw new TypeError("queries are made by DB, as with DB.user.all()");
    this.#type = type;
  }

  #with(change) {
    const query = new Query(this.#type, MADE_HERE);
    query.#conditions = this.#conditions;
    query.#order = this.#order;
    query.#limit = this.#limit;
    query.#skip = this.#skip;
    change(query);
    return query;
  }

  // All conditions must hold: `where("email = ?", x)` or `where({ email: x })`.
  where(...condition) {
    const more = conditionsOf(condition);
    return this.#with((query) => {
      query.#conditions = [...this.#conditions, ...more];
    });
  }

  // Names of attributes; "-name" sorts downwards.
  orderBy(...names) {
    const order = names.flat().map(String);
    return this.#with((query) => {
      query.#order = order;
    });
  }

  limit(count) {
    const limit = countOf(count, "limit");
    return this.#with((query) => {
      query.#limit = limit;
    });
  }

  skip(count) {
    const skip = countOf(count, "skip");
    return this.#with((query) => {
      query.#skip = skip;
    });
  }

  async toArray() {
    const all = [];
    for await (const object of this) all.push(object);
    return all;
  }

  async count() {
    const { total } = await this.#ask(1, 0);
    return Math.min(Math.max(total - this.#skip, 0), this.#limit ?? Infinity);
  }

  // The first of them, or null.
  async first() {
    const [object] = await this.limit(Math.min(1, this.#limit ?? 1)).toArray();
    return object ?? null;
  }

  // Page after page. A loop may change or destroy what it is given: when the total shrinks between
  // two pages, what follows has moved up, and the page is asked for again from where it is now.
  async *[Symbol.asyncIterator]() {
    const seen = new Set();
    let [skip, total] = [this.#skip, null];
    while (seen.size < (this.#limit ?? Infinity)) {
      const page = await this.#ask(Math.min((this.#limit ?? Infinity) - seen.size, PAGE_MAX), skip);
      const gone = total === null ? 0 : Math.max(total - page.total, 0);
      total = page.total;
      if (gone > 0 && skip > this.#skip) {
        skip = Math.max(skip - gone, this.#skip);
        continue;
      }
      skip += page.objects.length;
      for (const answer of page.objects) {
        if (seen.has(answer.id)) continue;
        seen.add(answer.id);
        yield savedObject(this.#type, answer);
      }
      if (!page.more || page.objects.length === 0) return;
    }
  }

  async #ask(limit, skip) {
    const body = { limit, skip };
    const texts = this.#conditions.map(({ text }) => text);
    if (texts.length > 0) {
      body.expression = texts.length === 1 ? texts[0] : `(${texts.join(") and (")})`;
      body.arguments = this.#conditions.flatMap((condition) => condition.values);
    }
    if (this.#order.length > 0) body.sort = this.#order;
    return askApi("POST", `/objects/${this.#type}/query.json`, body);
  }
}

function countOf(count, what) {
  if (Number.isSafeInteger(count) && count >= 0) return count;
  throw new TypeError(`${what} takes a whole number from 0`);
}

// Conditions with a value for each question mark.
function conditionsOf([condition, ...values]) {
  if (typeof condition === "string") {
    const text = condition.trim();
    const marks = text.split("?").length - 1;
    if (marks !== values.length) {
      throw new TypeError(`"${text}" has ${marks} ?, and ${values.length} values are given`);
    }
    if (text === "") return [];
    return [{ text, values: values.map((value, at) => apiValue(value, `value ${at + 1}`)) }];
  }
  if (typeof condition !== "object" || condition === null || Array.isArray(condition)) {
    throw new TypeError("where takes a text with a ? for each value, or an object");
  }
  return Object.entries(condition).map(([name, value]) => {
    if (!/^\w+$/.test(name)) throw new TypeError(`${name} is no attribute`);
    const operator = Array.isArray(value) ? "in" : "=";
    return { text: `${name} ${operator} ?`, values: [apiValue(value, name)] };
  });
}

// All objects of a type: DB.user.
class DbType {
  #type;

  constructor(type) {
    this.#type = type;
  }

  all() {
    return new Query(this.#type, MADE_HERE);
  }

  where(...condition) {
    return this.all().where(...condition);
  }

  // By its id, or the first for which a condition holds; null when there is none. An id that is
  // missing is nobody's.
  async first(...wanted) {
    if (wanted.length === 0) return this.all().first();
    const [id] = wanted;
    if (id === undefined || id === null) return null;
    if (wanted.length > 1 || typeof id !== "string") return this.where(...wanted).first();
    try {
      return savedObject(this.#type, await askApi("GET", objectPath(this.#type, id)));
    } catch (error) {
      if (error instanceof ApiError && error.type === "OBJECT_NOT_FOUND") return null;
      throw error;
    }
  }

  // A new object, which the server knows when it is saved.
  create(attributes = {}) {
    return newObject(this.#type, attributes ?? {});
  }
}

// Many changes in few requests. What has succeeded is not sent again, so that a batch that failed
// can be executed again.
class Batch {
  #operations = [];

  save(object) {
    this.#add(object, false);
  }

  destroy(object) {
    pathOf(object);
    this.#add(object, true);
  }

  async execute() {
    const errors = [];
    let waiting = this.#operations.filter((operation) => !isDone(operation));
    const failed = [];
    try {
      while (waiting.length > 0) {
        const operations = waiting.slice(0, BATCH_MAX);
        const sent = operations.map(sentOperation);
        const answer = await askApi("POST", "/batch.json", { operations: sent });
        waiting = waiting.slice(BATCH_MAX);
        operations.forEach((operation, at) => {
          const error = settleOperation(operation, sent[at], (answer?.operations ?? answer)?.[at]);
          if (!error) return;
          failed.push(operation);
          errors.push({ object: operation.object, method: sent[at].method, error });
        });
      }
    } finally {
      this.#operations = [...failed, ...waiting];
    }
    if (errors.length === 0) return;
    const { detail, type } = errors[0].error;
    const words = `${errors.length} operations of the batch failed, first: ${detail ?? type}`;
    throw Object.assign(new Error(words), { errors });
  }

  #add(object, isDestroy) {
    stateOf(object);
    const isIt = (one) => one.object === object && one.isDestroy === isDestroy;
    if (!this.#operations.some(isIt)) this.#operations.push({ object, isDestroy });
  }
}

// Whether there is nothing to send.
function isDone({ object, isDestroy }) {
  return !isDestroy && stateOf(object).saved && Object.keys(changesOf(object)).length === 0;
}

function sentOperation({ object, isDestroy }) {
  const { type, saved } = stateOf(object);
  if (isDestroy) return { method: "delete", object: { type, id: object.id } };
  const changes = changesOf(object);
  if (!saved) return { method: "post", object: { type, ...changes } };
  return { method: "patch", object: { type, id: object.id, ...changes } };
}

// Notes what the server has now; answers the error, if it is one.
function settleOperation({ object, isDestroy }, sent, result) {
  if (!result?.success) return result?.error ?? { detail: "the API did not say what became of it" };
  if (isDestroy) return null;
  const { type: _, id: __, ...attributes } = sent.object;
  const state = stateOf(object);
  state.saved ??= new Map();
  for (const [name, value] of Object.entries(attributes)) {
    state.saved.set(name, JSON.stringify(value));
  }
  if (sent.method === "post") setOwnField(object, "id", result.object?.id ?? null);
  return null;
}

const DB = { user: new DbType("user"), Batch };
