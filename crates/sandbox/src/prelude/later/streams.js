// ReadableStream (WHATWG Streams): made by scripts, and the bodies of requests and responses.
// There is one kind of reader, and nothing to write into.

// What is in a stream: chunks that wait for reads, or reads that wait for chunks.
class Flow {
  chunks = [];
  size = 0;
  reads = [];
  isDisturbed = false;
  reader = null;
  // Why it has failed: `{ reason }`.
  failure = null;
  #isClosing = false;
  #isOver = false;
  #isStarted = false;
  #isPulling = false;
  #isWanted = false;
  // Whoever waits for the end hears of a failure; nobody must.
  #end = quietly();
  #controller = new ReadableStreamDefaultController(this, MADE_HERE);

  // A source of bytes is asked when someone reads, unless it says otherwise.
  constructor(source, { highWaterMark = source.type === "bytes" ? 0 : 1, size = () => 1 }) {
    this.source = source;
    this.room = Number(highWaterMark);
    if (!(this.room >= 0)) throw new RangeError("highWaterMark is a number from 0");
    this.sizeOf = size;
    const started = source.start?.(this.#controller);
    Promise.resolve(started).then(() => {
      this.#isStarted = true;
      this.#want();
    }).catch((error) => this.fail(error));
  }

  get end() {
    return this.#end.promise;
  }

  get roomLeft() {
    if (this.failure) return null;
    return this.#isOver ? 0 : this.room - this.size;
  }

  get isEnded() {
    return this.#isOver || this.failure !== null;
  }

  get isShut() {
    return this.#isClosing || this.isEnded;
  }

  read() {
    this.isDisturbed = true;
    if (this.chunks.length > 0) {
      const { chunk, size } = this.chunks.shift();
      this.size -= size;
      if (this.#isClosing && this.chunks.length === 0) this.#finish();
      else this.#want();
      return Promise.resolve({ value: chunk, done: false });
    }
    if (this.failure) return Promise.reject(this.failure.reason);
    if (this.#isOver) return Promise.resolve({ value: undefined, done: true });
    const read = Promise.withResolvers();
    this.reads.push(read);
    this.#want();
    return read.promise;
  }

  enqueue(chunk) {
    this.#mustBeOpen();
    if (this.reads.length > 0) {
      this.reads.shift().resolve({ value: chunk, done: false });
    } else {
      const size = Number(this.sizeOf(chunk));
      this.chunks.push({ chunk, size });
      this.size += size;
    }
    this.#want();
  }

  close() {
    this.#mustBeOpen();
    this.#isClosing = true;
    if (this.chunks.length === 0) this.#finish();
  }

  fail(reason) {
    if (this.#isOver || this.failure) return;
    this.failure = { reason };
    this.#empty();
    for (const read of this.reads.splice(0)) read.reject(reason);
    this.#end.reject(reason);
  }

  async cancel(reason) {
    this.isDisturbed = true;
    if (this.failure) throw this.failure.reason;
    if (this.#isOver) return;
    this.#empty();
    this.#finish();
    await this.source.cancel?.(reason);
  }

  #empty() {
    this.chunks = [];
    this.size = 0;
  }

  #finish() {
    this.#isOver = true;
    for (const read of this.reads.splice(0)) read.resolve({ value: undefined, done: true });
    this.#end.resolve();
  }

  #mustBeOpen() {
    if (this.isShut) throw new TypeError("the stream is closed");
  }

  // Asks the source for more, one question at a time.
  async #want() {
    const isWanted = () => !this.isShut && (this.reads.length > 0 || this.roomLeft > 0);
    if (!this.#isStarted || !isWanted()) return;
    this.#isWanted = true;
    if (this.#isPulling) return;
    this.#isPulling = true;
    try {
      while (this.#isWanted && isWanted()) {
        this.#isWanted = false;
        await this.source.pull?.(this.#controller);
      }
    } catch (error) {
      this.fail(error);
    }
    this.#isPulling = false;
  }
}

// A promise to be settled later, of whose failure nobody must hear.
function quietly() {
  const made = Promise.withResolvers();
  made.promise.catch(() => {});
  return made;
}

function onlyMadeHere(made, kind) {
  if (made !== MADE_HERE) throw new TypeError(`a ReadableStream makes its ${kind}`);
}

class ReadableStreamDefaultController {
  #flow;

  constructor(flow, made = undefined) {
    onlyMadeHere(made, "controller");
    this.#flow = flow;
  }

  get desiredSize() {
    return this.#flow.roomLeft;
  }

  enqueue(chunk) {
    this.#flow.enqueue(chunk);
  }

  close() {
    this.#flow.close();
  }

  error(reason) {
    this.#flow.fail(reason);
  }
}

class ReadableStreamDefaultReader {
  #flow;
  #closed = quietly();

  constructor(stream) {
    this.#flow = ReadableStream._flow(stream);
    if (this.#flow.reader) throw new TypeError("the stream is locked: it has a reader");
    this.#flow.reader = this;
    this.#flow.end.then(this.#closed.resolve, this.#closed.reject);
  }

  get closed() {
    return this.#closed.promise;
  }

  async read() {
    return await this.#held().read();
  }

  async cancel(reason = undefined) {
    await this.#held().cancel(reason);
  }

  releaseLock() {
    if (!this.#flow) return;
    const error = new TypeError("the reader was released");
    for (const read of this.#flow.reads.splice(0)) read.reject(error);
    // Who waits for the end hears that it will not be told; an end that was is not taken back.
    if (this.#flow.isEnded) this.#closed = quietly();
    this.#closed.reject(error);
    this.#flow.reader = null;
    this.#flow = null;
  }

  #held() {
    if (!this.#flow) throw new TypeError("the reader was released");
    return this.#flow;
  }
}

class ReadableStream {
  #flow;

  constructor(source = undefined, strategy = undefined) {
    const kind = source?.type;
    if (kind !== undefined && kind !== "bytes") {
      throw new TypeError(`a stream's type is "bytes" or nothing, not ${kind}`);
    }
    this.#flow = new Flow(source ?? {}, strategy ?? {});
  }

  get locked() {
    return this.#flow.reader !== null;
  }

  getReader(options = undefined) {
    if (options?.mode !== undefined) {
      throw new TypeError("there are only default readers: getReader()");
    }
    return new ReadableStreamDefaultReader(this);
  }

  async cancel(reason = undefined) {
    if (this.locked) throw new TypeError("the stream is locked: it has a reader");
    await this.#flow.cancel(reason);
  }

  // Two streams of the same chunks.
  tee() {
    const reader = this.getReader();
    const open = new Set();
    const toAll = (call) => [...open].forEach(call);
    const pull = async () => {
      try {
        const { value, done } = await reader.read();
        toAll((one) => (done ? one.close() : one.enqueue(value)));
        if (done) open.clear();
      } catch (error) {
        toAll((one) => one.error(error));
        open.clear();
      }
    };
    const branch = () => {
      let own;
      const cancel = async (reason) => {
        open.delete(own);
        if (open.size === 0) await reader.cancel(reason);
      };
      const start = (controller) => open.add((own = controller));
      return new ReadableStream({ start: (controller) => void start(controller), pull, cancel });
    };
    return [branch(), branch()];
  }

  values({ preventCancel = false } = {}) {
    const reader = this.getReader();
    const chunks = async function* () {
      try {
        for (;;) {
          const { value, done } = await reader.read();
          if (done) return;
          yield value;
        }
      } finally {
        const ended = preventCancel ? null : reader.cancel();
        reader.releaseLock();
        await ended;
      }
    };
    return chunks();
  }

  [Symbol.asyncIterator](options = undefined) {
    return this.values(options);
  }

  get [Symbol.toStringTag]() {
    return "ReadableStream";
  }

  static from(items) {
    const open = items?.[Symbol.asyncIterator] ?? items?.[Symbol.iterator];
    if (typeof open !== "function") throw new TypeError("ReadableStream.from takes an iterable");
    const iterator = open.call(items);
    const pull = async (controller) => {
      const { value, done } = await iterator.next();
      if (done) controller.close();
      else controller.enqueue(await value);
    };
    const cancel = async (reason) => void (await iterator.return?.(reason));
    return new ReadableStream({ pull, cancel }, { highWaterMark: 0 });
  }

  static _flow(stream) {
    if (stream instanceof ReadableStream) return stream.#flow;
    throw new TypeError("a reader is for a ReadableStream");
  }
}

// Bytes that are there come in chunks of this size.
const CHUNK_BYTES = 65_536;

function streamOf(bytes) {
  let at = 0;
  const pull = (controller) => {
    if (at >= bytes.length) return controller.close();
    controller.enqueue(bytes.slice(at, at + CHUNK_BYTES));
    at += CHUNK_BYTES;
  };
  return new ReadableStream({ pull }, { highWaterMark: 0 });
}

function isTouched(stream) {
  return ReadableStream._flow(stream).isDisturbed;
}

// The chunks of a body.
async function* chunksOf(stream) {
  for await (const chunk of stream) {
    if (!(chunk instanceof Uint8Array)) {
      throw new TypeError(`the stream of a body gives Uint8Arrays, not ${shown(chunk, 1)}`);
    }
    yield chunk;
  }
}

// All bytes of a body. One that is aborted meanwhile is read no further.
async function bytesOfStream(stream, signal = undefined) {
  const chunks = [];
  const giveUp = () => void ReadableStream._flow(stream).cancel(signal.reason).catch(() => {});
  signal?.addEventListener("abort", giveUp);
  try {
    for await (const chunk of chunksOf(stream)) chunks.push(bytesOf(chunk));
  } finally {
    signal?.removeEventListener("abort", giveUp);
  }
  // Who has read a body keeps it.
  stream.getReader();
  signal?.throwIfAborted();
  return joined(chunks);
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
