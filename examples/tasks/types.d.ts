// Types for the authors of tasks: `this`, DB, CloudCode, web tasks. `globals.d.ts` has what
// browsers have, too. The compiler needs nothing else:
//
//   tsc --noEmit --strict --target es2023 --module es2022 --lib es2023 --types '' *.ts

// ---------------------------------------------------------------------------------- The context

/** `this` in what a task exports, and in helpers that are called with `.call(this, …)`. */
interface TaskContext {
  /** The API of the task's app. */
  readonly backend: {
    /** The base, without a slash at its end: `${this.backend.url}/users.json`. */
    readonly url: string;
    /** A token with the task's scopes; it lives as long as the run. */
    readonly token: string;
  };
  /** The task's variables. */
  readonly env: Readonly<Record<string, string>>;
  /** This run. */
  readonly run: {
    /** The same when a run that gave no answer is tried again: a key for doing things once. */
    readonly id: string;
    /** Which try this is, from 1. */
    readonly attempt: number;
    /** The task's name. */
    readonly task: string;
    /** What started it. */
    readonly trigger: string;
  };
}

/** What a task says of itself: `export const config: TaskConfig = {…}`, a literal. */
interface TaskConfig {
  /** What its token may do, such as `users:read`. */
  scopes?: string[];
  /** Five fields, or six with seconds first; the zone is UTC if none is given. */
  schedule?: { cron: string; zone?: string };
  /** What becomes of scheduled moments that were missed; once, if nothing is said. */
  misfire?: "skip" | "once" | "all";
  /** What `run` gets when the trigger brings nothing. */
  params?: Record<string, unknown>;
  /** `process.env`. */
  env?: Record<string, string>;
  /** Never two runs at once: of this task, or of all tasks with this queue. */
  single_instance?: boolean;
  queue?: string;
  /** How often a failed run is tried again, also if it threw. */
  retries?: number;
  /** Whether it answers HTTP at `/tasks/{app}/{task}`. */
  web?: boolean;
  /** Where `fetch` may go beside the API: `api.example.com`, `*.example.com`. */
  allow_hosts?: string[];
  /** The kinds of ledger entries that start it, and what these must hold. */
  on?: string[];
  where?: Record<string, unknown>;
  /** The id of a user for whom it runs. */
  owner?: string;
}

/** What a task exports: `export async function run(this: TaskContext, params: Params)`. */
type TaskRun<Params = Record<string, any>, Result = unknown> = (
  this: TaskContext,
  params: Params,
) => Result | Promise<Result>;

/** The task's variables again, as Node.js has them. */
declare const process: { readonly env: Readonly<Record<string, string>> };

// ------------------------------------------------------------------------------------------- DB

/**
 * The attributes of your app's users. Any name is allowed; say more in a `.d.ts` of your own:
 * `interface UserAttributes { email: string | null; contract_end: string | null }`
 */
interface UserAttributes {
  [attribute: string]: any;
}

/** A value in a condition; a moment counts in whole seconds, null is "not set". */
type DbValue = string | number | boolean | Date | null;

/** What the server knows of an object beside its attributes. */
interface DbObject {
  /** Null until it is saved. */
  readonly id: string;
  readonly type: string;
  readonly updated_at: string;
  readonly display: string;
  /** Creates the object, or sends the attributes that have changed, if any has. */
  save(): Promise<this>;
  /** Deletes it for good; a user's sessions are reset. */
  destroy(): Promise<void>;
  /** Reads it again; what was not saved is lost. */
  reload(): Promise<this>;
}

/** A user: attributes are plain properties. */
type DbUser = UserAttributes & DbObject;

/** A question; it is asked when it is awaited. Each method answers a new query. */
interface DbQuery<Object> extends AsyncIterable<Object> {
  /** All conditions must hold. Every value is a `?`: `.where("email = ? or age > ?", x, 18)`. */
  where(expression: string, ...values: (DbValue | readonly DbValue[])[]): DbQuery<Object>;
  /** Attributes that must have these values; of a list, one of them. */
  where(values: Record<string, DbValue | readonly DbValue[]>): DbQuery<Object>;
  limit(count: number): DbQuery<Object>;
  skip(count: number): DbQuery<Object>;
  /** Names of attributes; `"-name"` sorts downwards. */
  orderBy(...names: string[]): DbQuery<Object>;
  /** All of them, however many pages that takes. */
  toArray(): Promise<Object[]>;
  count(): Promise<number>;
  /** The first, or null when there is none. */
  first(): Promise<Object | null>;
}

/** All objects of a type. */
interface DbType<Object, Attributes> {
  all(): DbQuery<Object>;
  where(expression: string, ...values: (DbValue | readonly DbValue[])[]): DbQuery<Object>;
  where(values: Record<string, DbValue | readonly DbValue[]>): DbQuery<Object>;
  /** By its id; null when there is none, and for an id that is missing. */
  first(id?: string | null): Promise<Object | null>;
  /** The first for which a condition holds, or null. */
  first(
    expression: string,
    value: DbValue | readonly DbValue[],
    ...values: (DbValue | readonly DbValue[])[]
  ): Promise<Object | null>;
  first(values: Record<string, DbValue | readonly DbValue[]>): Promise<Object | null>;
  /** A new object, which the server knows when it is saved. */
  create(attributes?: Partial<Attributes>): Object;
}

/** The app's users, through its API with the run's token. */
declare namespace DB {
  const user: DbType<DbUser, UserAttributes>;

  /** Many changes in few requests. */
  class Batch {
    save(object: DbObject): void;
    destroy(object: DbObject): void;
    /**
     * Sends all changes, 1000 a request. Throws a `DbBatchError` when some failed; the others are
     * done, and not sent again when the batch is executed again.
     */
    execute(): Promise<void>;
  }
}

/** What the API answered when it was not what was wanted: thrown by DB and CloudCode. */
interface ApiError extends Error {
  readonly status: number;
  /** Such as `OBJECT_NOT_FOUND` or `INVALID_VALUE`. */
  readonly type: string | null;
}

interface DbBatchError extends Error {
  readonly errors: readonly {
    readonly object: DbObject;
    readonly method: "post" | "patch" | "delete";
    readonly error: { readonly type?: string; readonly detail?: string };
  }[];
}

// ------------------------------------------------------------------------------------ CloudCode

interface ScheduleTaskOptions {
  /** Its name. */
  task: string;
  parameters?: Record<string, any>;
  /** Not before this moment. */
  at?: Date | string;
  /** Not before so many milliseconds from now, or a span like `"10m"`. */
  after?: number | string;
  /** Runs of one queue never run at the same time. */
  queue?: string;
}

declare const CloudCode: {
  /** Queues a run of a task and answers the run's id. */
  scheduleTask(options: ScheduleTaskOptions): Promise<string>;
  /** Runs a task, waits, and answers what it returned; throws the run's error when it failed. */
  callTask(name: string, parameters?: Record<string, any>): Promise<any>;
};

// ------------------------------------------------------------------------------------ Web tasks

/** A request to a web task. Its body can be read as often as you like. */
interface WebTaskRequest extends BodyReaders {
  readonly method: string;
  readonly url: string;
  readonly path: string;
  readonly headers: Headers;
  readonly query: Readonly<Record<string, any>>;
  /** The parsed value when the request says that it is JSON (null when empty), else the text. */
  readonly body: any;
  /** A header's value: `request.header("authorization")`. */
  header(name: string): string | undefined;
  /** The body as it came, to verify a signature. */
  bytes(): Promise<Uint8Array>;
}

/** What will be answered, unless the function returns something. */
interface WebTaskResponse {
  /** 200 unless set. */
  status: number;
  get headers(): Headers;
  set headers(headers: HeadersInit);
  body: unknown;
}

/** What `authenticate` must return; only `access` makes one. */
interface WebTaskDecision {
  readonly __decision: never;
}

interface WebTaskAccess {
  /** Lets the request through; the value becomes `authContext`. */
  authorized(authContext?: unknown): WebTaskDecision;
  /** Refuses it: 401 and `{"error":"unauthorized"}` unless you say otherwise. */
  unauthorized(answer?: { status?: number; body?: unknown }): WebTaskDecision;
}

/** What `authenticate` gets: `export function authenticate({ request, access }: …)`. */
interface WebTaskAuthentication {
  readonly request: WebTaskRequest;
  readonly access: WebTaskAccess;
  /** The query, and above it the fields of a JSON body. */
  readonly params: Record<string, any>;
}

/**
 * What `get`, `post`, `put`, `patch` and `delete` get (`export { remove as delete }`). What they
 * return is the body: a text as text/plain, all else as JSON; a `Response` is taken as it is. Of a
 * generator (`export async function* get(…)`) each text is sent as soon as it is yielded, of a
 * `Response` with a `ReadableStream` each chunk.
 */
interface WebTaskCall<AuthContext = any> {
  readonly params: Record<string, any>;
  readonly request: WebTaskRequest;
  readonly response: WebTaskResponse;
  readonly authContext: AuthContext;
}

/** What the sign-in hook must return; only `context` makes one. */
interface IdentityDecision {
  readonly __identity: never;
}

/** What `extractIdentity` gets. */
interface IdentityCall {
  /** What the identity provider says. */
  readonly claims: Record<string, any>;
  readonly context: {
    /** The identity is this saved user. */
    authorized(user: DbObject | { readonly id: string } | string): IdentityDecision;
    unauthorized(why?: { message?: string }): IdentityDecision;
  };
}
