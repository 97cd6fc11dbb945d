// DOMException, Event, EventTarget, AbortSignal, AbortController (WHATWG DOM).

const ERROR_CODES = {
  IndexSizeError: 1, HierarchyRequestError: 3, WrongDocumentError: 4, InvalidCharacterError: 5,
  NoModificationAllowedError: 7, NotFoundError: 8, NotSupportedError: 9, InUseAttributeError: 10,
  InvalidStateError: 11, SyntaxError: 12, InvalidModificationError: 13, NamespaceError: 14,
  InvalidAccessError: 15, TypeMismatchError: 17, SecurityError: 18, NetworkError: 19,
  AbortError: 20, URLMismatchError: 21, QuotaExceededError: 22, TimeoutError: 23,
  InvalidNodeTypeError: 24, DataCloneError: 25,
};

class DOMException extends Error {
  constructor(message = "", options = "Error") {
    const isNamed = typeof options === "object" && options !== null;
    super(String(message), isNamed && "cause" in options ? { cause: options.cause } : undefined);
    const name = String(isNamed ? (options.name ?? "Error") : options);
    Object.defineProperty(this, "name", { value: name, configurable: true });
  }

  get code() {
    return Object.hasOwn(ERROR_CODES, this.name) ? ERROR_CODES[this.name] : 0;
  }
}

class Event {
  target = null;
  currentTarget = null;
  defaultPrevented = false;
  timeStamp = native.now();
  #isStopped = false;

  constructor(type, init = {}) {
    this.type = String(type);
    this.bubbles = Boolean(init?.bubbles);
    this.cancelable = Boolean(init?.cancelable);
  }

  preventDefault() {
    if (this.cancelable) this.defaultPrevented = true;
  }

  stopPropagation() {}

  stopImmediatePropagation() {
    this.#isStopped = true;
  }

  static _isStopped(event) {
    return event.#isStopped;
  }
}

class EventTarget {
  #listeners = [];

  addEventListener(type, call, options = undefined) {
    if (call === null || call === undefined) return;
    const { once, signal, capture } = typeof options === "object" && options ? options : {};
    const isCapture = Boolean(options === true || capture);
    if (signal?.aborted || this.#find(type, call, isCapture)) return;
    this.#listeners.push({ type: String(type), call, once: Boolean(once), isCapture });
    signal?.addEventListener("abort", () => this.removeEventListener(type, call, isCapture));
  }

  removeEventListener(type, call, options = undefined) {
    const isCapture = Boolean(options === true || options?.capture);
    const listener = this.#find(type, call, isCapture);
    if (!listener) return;
    listener.isGone = true;
    this.#listeners = this.#listeners.filter((one) => one !== listener);
  }

  dispatchEvent(event) {
    if (!(event instanceof Event)) throw new TypeError("dispatchEvent takes an Event");
    event.target = event.currentTarget = this;
    for (const listener of [...this.#listeners]) {
      if (Event._isStopped(event)) break;
      if (listener.type !== event.type || listener.isGone) continue;
      if (listener.once) this.removeEventListener(event.type, listener.call, listener.isCapture);
      this.#call(listener.call, event);
    }
    event.currentTarget = null;
    return !event.defaultPrevented;
  }

  #find(type, call, isCapture) {
    const isIt = (one) => {
      return one.type === String(type) && one.call === call && one.isCapture === isCapture;
    };
    return this.#listeners.find(isIt);
  }

  // What a listener throws is not the business of whoever dispatches.
  #call(call, event) {
    try {
      if (typeof call === "function") call.call(this, event);
      else call.handleEvent(event);
    } catch (error) {
      reportError(error);
    }
  }
}

// Only this file makes signals.
const MADE_HERE = Symbol("made here");

class AbortSignal extends EventTarget {
  #isAborted = false;
  #reason = undefined;
  onabort = null;

  constructor(made = undefined) {
    if (made !== MADE_HERE) throw new TypeError("an AbortController makes signals");
    super();
    this.addEventListener("abort", (event) => this.onabort?.(event));
  }

  get aborted() {
    return this.#isAborted;
  }

  get reason() {
    return this.#reason;
  }

  throwIfAborted() {
    if (this.#isAborted) throw this.#reason;
  }

  static abort(reason = undefined) {
    const signal = new AbortSignal(MADE_HERE);
    AbortSignal._abort(signal, reason);
    return signal;
  }

  static timeout(delay) {
    const pause = Number(delay);
    if (!(pause >= 0)) throw new TypeError("a timeout is a number of milliseconds");
    const signal = new AbortSignal(MADE_HERE);
    const error = new DOMException("the time is over", "TimeoutError");
    addTimer(() => AbortSignal._abort(signal, error), pause, [], false);
    return signal;
  }

  static any(signals) {
    const all = [...signals];
    if (!all.every((one) => one instanceof AbortSignal)) {
      throw new TypeError("AbortSignal.any takes signals");
    }
    const signal = new AbortSignal(MADE_HERE);
    const first = all.find((one) => one.aborted);
    if (first) AbortSignal._abort(signal, first.reason);
    else {
      for (const one of all) {
        const follow = () => AbortSignal._abort(signal, one.reason);
        one.addEventListener("abort", follow, { once: true });
      }
    }
    return signal;
  }

  static _abort(signal, reason) {
    if (signal.#isAborted) return;
    signal.#isAborted = true;
    signal.#reason = reason ?? new DOMException("this was aborted", "AbortError");
    signal.dispatchEvent(new Event("abort"));
  }
}

class AbortController {
  #signal = new AbortSignal(MADE_HERE);

  get signal() {
    return this.#signal;
  }

  abort(reason = undefined) {
    AbortSignal._abort(this.#signal, reason);
  }
}
