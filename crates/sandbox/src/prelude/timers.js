// Timers, AbortController, performance. The loop outside calls `fireDue` when it is time.

const timers = new Map();
let lastTimer = 0;

function addTimer(call, delay, args, isRepeated) {
  if (typeof call !== "function") throw new TypeError("a timer calls a function");
  const pause = Math.max(Number(delay) || 0, isRepeated ? 1 : 0);
  const id = (lastTimer += 1);
  timers.set(id, { call, args, pause, isRepeated, at: native.now() + pause });
  return id;
}

const setTimeout = (call, delay = 0, ...args) => addTimer(call, delay, args, false);
const setInterval = (call, delay = 0, ...args) => addTimer(call, delay, args, true);
const clearTimeout = (id) => void timers.delete(id);
const clearInterval = clearTimeout;
const queueMicrotask = (call) => void Promise.resolve().then(call);
const performance = { now: () => native.now() };

// Calls the first timer whose time has come, so that promises settle between two timers. Answers
// 0 if it called one, else milliseconds until the next, or -1 if there is none.
function fireDue() {
  let next = null;
  for (const [id, timer] of timers) {
    if (!next || timer.at < next.timer.at) next = { id, timer };
  }
  if (!next) return -1;
  const now = native.now();
  if (next.timer.at > now) return Math.max(next.timer.at - now, 0.001);
  if (next.timer.isRepeated) {
    next.timer.at = now + next.timer.pause;
  } else {
    timers.delete(next.id);
  }
  next.timer.call(...next.timer.args);
  return 0;
}

class AbortSignal {
  aborted = false;
  reason = undefined;
  onabort = null;
  #listeners = [];

  addEventListener(type, call) {
    if (type === "abort") this.#listeners.push(call);
  }

  removeEventListener(type, call) {
    if (type === "abort") this.#listeners = this.#listeners.filter((one) => one !== call);
  }

  throwIfAborted() {
    if (this.aborted) throw this.reason;
  }

  static abort(reason = undefined) {
    const controller = new AbortController();
    controller.abort(reason);
    return controller.signal;
  }

  static timeout(delay) {
    const controller = new AbortController();
    const error = new Error("the time is over");
    error.name = "TimeoutError";
    setTimeout(() => controller.abort(error), delay);
    return controller.signal;
  }

  static _abort(signal, reason) {
    if (signal.aborted) return;
    signal.aborted = true;
    signal.reason = reason ?? abortError();
    const event = { type: "abort", target: signal };
    signal.onabort?.(event);
    for (const call of signal.#listeners) call(event);
  }
}

function abortError() {
  const error = new Error("this was aborted");
  error.name = "AbortError";
  return error;
}

class AbortController {
  signal = new AbortSignal();

  abort(reason = undefined) {
    AbortSignal._abort(this.signal, reason);
  }
}
