// Types for the authors of tasks: `this` in `run`, and the globals that differ from a browser's.
// The globals fetch, Headers, Request, Response, URL, URLSearchParams, TextEncoder, TextDecoder,
// AbortController, console, timers, crypto.randomUUID/getRandomValues, structuredClone, atob and
// btoa are those of lib "DOM".

/** `this` in `run` and in helpers that are called with `.call(this, …)`. */
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
}

/** What a task exports: `export async function run(this: TaskContext, params: Params)`. */
type TaskRun<Params = Record<string, unknown>, Result = unknown> = (
  this: TaskContext,
  params: Params,
) => Result | Promise<Result>;

/** The task's variables again, as Node.js has them. */
declare const process: { readonly env: Readonly<Record<string, string>> };
