// Types for the authors of tasks: every global that browsers have, too, as far as tasks have it.
// What is here is there; `types.d.ts` has all else.

// ---------------------------------------------------------------------------------------- fetch

type BufferSource = ArrayBuffer | ArrayBufferView;
type BodyInit =
  | string
  | URLSearchParams
  | BufferSource
  | Blob
  | FormData
  | ReadableStream<Uint8Array>;
type HeadersInit = Headers | Iterable<readonly [string, string]> | Record<string, string>;

declare class Headers {
  constructor(init?: HeadersInit);
  append(name: string, value: string): void;
  set(name: string, value: string): void;
  get(name: string): string | null;
  getSetCookie(): string[];
  has(name: string): boolean;
  delete(name: string): void;
  forEach(call: (value: string, name: string, headers: Headers) => void, self?: unknown): void;
  entries(): IterableIterator<[string, string]>;
  keys(): IterableIterator<string>;
  values(): IterableIterator<string>;
  [Symbol.iterator](): IterableIterator<[string, string]>;
}

/** The forms in which a body can be read. */
interface BodyReaders {
  text(): Promise<string>;
  json(): Promise<any>;
  bytes(): Promise<Uint8Array>;
  arrayBuffer(): Promise<ArrayBuffer>;
  blob(): Promise<Blob>;
  /** Of `multipart/form-data` and `application/x-www-form-urlencoded`. */
  formData(): Promise<FormData>;
}

/** Each body is read once. What arrives is there as a whole; what is sent is read whole first. */
interface Body extends BodyReaders {
  /** Null when there is none. */
  readonly body: ReadableStream<Uint8Array> | null;
  readonly bodyUsed: boolean;
}

type RequestRedirect = "follow" | "manual" | "error";

interface RequestInit {
  method?: string;
  headers?: HeadersInit;
  body?: BodyInit | null;
  redirect?: RequestRedirect;
  signal?: AbortSignal | null;
  /** Others want it for a stream as body. */
  duplex?: "half";
}

interface Request extends Body {}
declare class Request {
  constructor(input: string | URL | Request, init?: RequestInit);
  readonly url: string;
  readonly method: string;
  readonly headers: Headers;
  readonly redirect: RequestRedirect;
  readonly signal: AbortSignal;
  clone(): Request;
}

interface ResponseInit {
  status?: number;
  statusText?: string;
  headers?: HeadersInit;
}

interface Response extends Body {}
declare class Response {
  constructor(body?: BodyInit | null, init?: ResponseInit);
  static json(value: unknown, init?: ResponseInit): Response;
  static redirect(url: string | URL, status?: number): Response;
  static error(): Response;
  readonly status: number;
  readonly statusText: string;
  readonly ok: boolean;
  readonly headers: Headers;
  readonly url: string;
  readonly type: string;
  readonly redirected: boolean;
  clone(): Response;
}

/** Reaches this API and the origins that the operator allows. */
declare function fetch(input: string | URL | Request, init?: RequestInit): Promise<Response>;

// ----------------------------------------------------------------------------- Streams and files

interface UnderlyingSource<Chunk> {
  start?(controller: ReadableStreamDefaultController<Chunk>): unknown;
  pull?(controller: ReadableStreamDefaultController<Chunk>): unknown;
  cancel?(reason?: any): unknown;
  type?: "bytes";
}

interface ReadableStreamDefaultController<Chunk> {
  readonly desiredSize: number | null;
  enqueue(chunk: Chunk): void;
  close(): void;
  error(reason?: any): void;
}

type ReadableStreamReadResult<Chunk> =
  | { done: false; value: Chunk }
  | { done: true; value: undefined };

/** There is nothing to write into, hence no pipes. */
declare class ReadableStream<Chunk = any> implements AsyncIterable<Chunk> {
  constructor(
    source?: UnderlyingSource<Chunk>,
    strategy?: { highWaterMark?: number; size?: (chunk: Chunk) => number },
  );
  static from<Chunk>(items: Iterable<Chunk> | AsyncIterable<Chunk>): ReadableStream<Chunk>;
  readonly locked: boolean;
  getReader(): ReadableStreamDefaultReader<Chunk>;
  cancel(reason?: any): Promise<void>;
  tee(): [ReadableStream<Chunk>, ReadableStream<Chunk>];
  values(options?: { preventCancel?: boolean }): AsyncIterableIterator<Chunk>;
  [Symbol.asyncIterator](options?: { preventCancel?: boolean }): AsyncIterableIterator<Chunk>;
}

declare class ReadableStreamDefaultReader<Chunk = any> {
  constructor(stream: ReadableStream<Chunk>);
  readonly closed: Promise<void>;
  read(): Promise<ReadableStreamReadResult<Chunk>>;
  cancel(reason?: any): Promise<void>;
  releaseLock(): void;
}

type BlobPart = string | BufferSource | Blob;

declare class Blob {
  constructor(parts?: Iterable<BlobPart>, options?: { type?: string });
  readonly size: number;
  readonly type: string;
  slice(start?: number, end?: number, type?: string): Blob;
  stream(): ReadableStream<Uint8Array>;
  text(): Promise<string>;
  bytes(): Promise<Uint8Array>;
  arrayBuffer(): Promise<ArrayBuffer>;
}

declare class File extends Blob {
  constructor(
    parts: Iterable<BlobPart>,
    name: string,
    options?: { type?: string; lastModified?: number },
  );
  readonly name: string;
  readonly lastModified: number;
}

type FormDataEntryValue = string | File;

/** As a body it is `multipart/form-data`. */
declare class FormData {
  constructor();
  append(name: string, value: string): void;
  append(name: string, value: Blob, filename?: string): void;
  set(name: string, value: string): void;
  set(name: string, value: Blob, filename?: string): void;
  get(name: string): FormDataEntryValue | null;
  getAll(name: string): FormDataEntryValue[];
  has(name: string): boolean;
  delete(name: string): void;
  forEach(
    call: (value: FormDataEntryValue, name: string, all: FormData) => void,
    self?: unknown,
  ): void;
  entries(): IterableIterator<[string, FormDataEntryValue]>;
  keys(): IterableIterator<string>;
  values(): IterableIterator<FormDataEntryValue>;
  [Symbol.iterator](): IterableIterator<[string, FormDataEntryValue]>;
}

// ----------------------------------------------------------------------------------------- URLs

declare class URL {
  constructor(url: string | URL, base?: string | URL);
  static canParse(url: string | URL, base?: string | URL): boolean;
  static parse(url: string | URL, base?: string | URL): URL | null;
  href: string;
  readonly origin: string;
  protocol: string;
  username: string;
  password: string;
  host: string;
  hostname: string;
  port: string;
  pathname: string;
  search: string;
  hash: string;
  readonly searchParams: URLSearchParams;
  toString(): string;
  toJSON(): string;
}

declare class URLSearchParams {
  constructor(
    init?: string | Iterable<readonly [string, string]> | Record<string, string> | URLSearchParams,
  );
  readonly size: number;
  append(name: string, value: string): void;
  delete(name: string, value?: string): void;
  get(name: string): string | null;
  getAll(name: string): string[];
  has(name: string, value?: string): boolean;
  set(name: string, value: string): void;
  sort(): void;
  forEach(call: (value: string, name: string, all: URLSearchParams) => void, self?: unknown): void;
  entries(): IterableIterator<[string, string]>;
  keys(): IterableIterator<string>;
  values(): IterableIterator<string>;
  [Symbol.iterator](): IterableIterator<[string, string]>;
  toString(): string;
}

// --------------------------------------------------------------------------------------- Events

declare class DOMException extends Error {
  constructor(message?: string, name?: string | { name?: string; cause?: unknown });
  readonly name: string;
  readonly code: number;
}

interface EventInit {
  bubbles?: boolean;
  cancelable?: boolean;
}

declare class Event {
  constructor(type: string, init?: EventInit);
  readonly type: string;
  readonly target: EventTarget | null;
  readonly currentTarget: EventTarget | null;
  readonly bubbles: boolean;
  readonly cancelable: boolean;
  readonly defaultPrevented: boolean;
  readonly timeStamp: number;
  preventDefault(): void;
  stopPropagation(): void;
  stopImmediatePropagation(): void;
}

type EventListener = ((event: Event) => void) | { handleEvent(event: Event): void };

declare class EventTarget {
  addEventListener(
    type: string,
    call: EventListener | null,
    options?: boolean | { once?: boolean; capture?: boolean; signal?: AbortSignal },
  ): void;
  removeEventListener(
    type: string,
    call: EventListener | null,
    options?: boolean | { capture?: boolean },
  ): void;
  dispatchEvent(event: Event): boolean;
}

declare class AbortSignal extends EventTarget {
  private constructor();
  static abort(reason?: any): AbortSignal;
  static timeout(milliseconds: number): AbortSignal;
  static any(signals: Iterable<AbortSignal>): AbortSignal;
  readonly aborted: boolean;
  readonly reason: any;
  onabort: ((event: Event) => void) | null;
  throwIfAborted(): void;
}

declare class AbortController {
  readonly signal: AbortSignal;
  abort(reason?: any): void;
}

// --------------------------------------------------------------------------------------- Timers

declare function setTimeout<Args extends unknown[]>(
  call: (...args: Args) => void,
  milliseconds?: number,
  ...args: Args
): number;
declare function setInterval<Args extends unknown[]>(
  call: (...args: Args) => void,
  milliseconds?: number,
  ...args: Args
): number;
declare function clearTimeout(id: number | null | undefined): void;
declare function clearInterval(id: number | null | undefined): void;
declare function queueMicrotask(call: () => void): void;
/** Ends the run with this error. */
declare function reportError(error: unknown): void;

declare const performance: {
  /** Milliseconds since the run began. */
  now(): number;
  readonly timeOrigin: number;
  toJSON(): { timeOrigin: number };
};

// ----------------------------------------------------------------------------- Text, bytes, data

declare class TextEncoder {
  readonly encoding: "utf-8";
  encode(text?: string): Uint8Array;
  /** Writes as many whole characters as there is room for. */
  encodeInto(text: string, target: Uint8Array): { read: number; written: number };
}

type TextEncoding = "utf-8" | "windows-1252" | "utf-16le" | "utf-16be";

/** Reads UTF-8, windows-1252 (also by its names `latin1`, `iso-8859-1`, `ascii`) and UTF-16. */
declare class TextDecoder {
  constructor(label?: string, options?: { fatal?: boolean; ignoreBOM?: boolean });
  readonly encoding: TextEncoding;
  readonly fatal: boolean;
  readonly ignoreBOM: boolean;
  /** With `stream` the bytes of a character may come in several pieces. */
  decode(input?: BufferSource, options?: { stream?: boolean }): string;
}

declare function atob(base64: string): string;
declare function btoa(binary: string): string;
declare function structuredClone<Value>(
  value: Value,
  options?: { transfer?: ArrayBuffer[] },
): Value;

// --------------------------------------------------------------------------------------- crypto

type HashName = "SHA-1" | "SHA-256" | "SHA-384" | "SHA-512";
type HashAlgorithm = HashName | { name: HashName };
type HmacAlgorithm = "HMAC" | { name: "HMAC" };
type KeyUsage = "sign" | "verify";

interface HmacKeyAlgorithm {
  name: "HMAC";
  hash: HashAlgorithm;
  /** In bits. */
  length?: number;
}

declare class CryptoKey {
  private constructor();
  readonly type: "secret";
  readonly extractable: boolean;
  readonly algorithm: { name: "HMAC"; hash: { name: HashName }; length: number };
  readonly usages: KeyUsage[];
}

declare const crypto: {
  randomUUID(): string;
  /** Fills an array of integers, of at most 65536 bytes. */
  getRandomValues<Integers extends ArrayBufferView>(array: Integers): Integers;
  readonly subtle: {
    digest(algorithm: HashAlgorithm, data: BufferSource): Promise<ArrayBuffer>;
    importKey(
      format: "raw",
      bytes: BufferSource,
      algorithm: HmacKeyAlgorithm,
      extractable: boolean,
      usages: readonly KeyUsage[],
    ): Promise<CryptoKey>;
    generateKey(
      algorithm: HmacKeyAlgorithm,
      extractable: boolean,
      usages: readonly KeyUsage[],
    ): Promise<CryptoKey>;
    exportKey(format: "raw", key: CryptoKey): Promise<ArrayBuffer>;
    sign(algorithm: HmacAlgorithm, key: CryptoKey, data: BufferSource): Promise<ArrayBuffer>;
    /** Takes as long for a wrong signature as for a right one. */
    verify(
      algorithm: HmacAlgorithm,
      key: CryptoKey,
      signature: BufferSource,
      data: BufferSource,
    ): Promise<boolean>;
  };
};

// -------------------------------------------------------------------------------------- console

/** The run's log. A text that comes first may have marks: %s %d %i %f %o %O %j %c %%. */
declare const console: {
  debug(...values: unknown[]): void;
  log(...values: unknown[]): void;
  info(...values: unknown[]): void;
  warn(...values: unknown[]): void;
  error(...values: unknown[]): void;
  trace(...values: unknown[]): void;
  dir(value: unknown): void;
  table(rows: unknown, columns?: readonly string[]): void;
  assert(isTrue: unknown, ...values: unknown[]): void;
  group(...label: unknown[]): void;
  groupCollapsed(...label: unknown[]): void;
  groupEnd(): void;
  time(label?: string): void;
  timeLog(label?: string, ...values: unknown[]): void;
  timeEnd(label?: string): void;
  count(label?: string): void;
  countReset(label?: string): void;
};
