// Types for the authors of tests of tasks: the module `reauth:test`.

declare module "reauth:test" {
  export function test(name: string, body: () => unknown): void;
  export const assert: {
    equal(actual: unknown, expected: unknown, message?: string): void;
    ok(value: unknown, message?: string): void;
    rejects(promise: Promise<unknown> | (() => unknown), pattern?: RegExp): Promise<void>;
  };
  export const clock: {
    now(): Promise<Date>;
    pass(span: string): Promise<void>;
    set(at: string | Date): Promise<void>;
  };
  export interface Device {
    readonly id: string;
    readonly session: string;
    state(): Promise<string>;
    check(): Promise<{ status: number; because: string | null }>;
    connect(): Promise<number>;
    signOut(): Promise<void>;
  }
  export type Peer = { url: string; requests: { method: string; path: string; body: string }[] };
  export type PeerRequest = { [name in "method" | "path" | "body"]: string } & {
    headers: Record<string, string>;
  };
  export interface User {
    readonly id: string;
    signIn(device: string, more?: { label?: string; platform?: string }): Promise<Device>;
    reload(): Promise<Record<string, unknown>>;
    lock(): Promise<void>;
    join(group: string): Promise<void>;
  }
  export const lab: {
    /** Changes the app's settings: `max_session_age`, `warn_before`, `user_schema`… */
    settings(settings: Record<string, unknown>): Promise<void>;
    /** States the app's set of policies. */
    policies(policies: Record<string, unknown>[]): Promise<void>;
    /** Puts the task anew, with these variables. */
    deploy(options?: { env?: Record<string, string> }): Promise<void>;
    /** Users whose devices signed in over the last days. */
    sample(options?: { users?: number; devices?: number; days?: number }): Promise<User[]>;
    user(attributes?: Record<string, unknown>): Promise<User>;
    run(
      params?: Record<string, unknown>,
      options?: { dryRun?: boolean; env?: Record<string, string> },
    ): Promise<{
      state: string;
      result: unknown;
      error: { kind: string; message: string } | null;
      log: { level: string; text: string }[];
      changes: unknown[];
    }>;
    web(request: {
      method?: string;
      path?: string;
      headers?: Record<string, string>;
      body?: unknown;
    }): Promise<{ status: number; headers: Record<string, string>; body: unknown }>;
    /** Does all that is due by now: schedules, entries of the ledger, ends of sessions. */
    tick(): Promise<void>;
    api(method: string, path: string, body?: unknown): Promise<{ status: number; body: unknown }>;
    ledger(kind?: string): Promise<{ seq: number; kind: string; change: unknown }[]>;
    http(answer: (request: PeerRequest) => unknown): Promise<Peer>;
  };
}
