// Everyone signs in again after N days: whoever has left the company cannot, and so loses access.
//
// This is the task that Reauth began with. A policy does the same at every check, to the second:
// see docs/guide/policies.md. A task is for rules that no policy knows.

export const config: TaskConfig = {
  schedule: { cron: "0 3 * * *", zone: "Europe/Vienna" },
  scopes: ["users:read", "sessions:end"],
  params: { days: 30 },
  single_instance: true,
  retries: 2,
};

const DAY_MS = 24 * 60 * 60 * 1000;

export async function run(this: TaskContext, params: { days?: number }) {
  const before = Date.now() - (params.days ?? 30) * DAY_MS;
  let sessions = 0;
  let signedOut = 0;
  let failed = 0;
  for await (const user of users(this)) {
    for (const session of user.sessions) {
      sessions += 1;
      if (session.state !== "ENROLLED") continue;
      if (Date.parse(session.last_authenticated_at) > before) continue;
      // The others must not wait for one that goes wrong.
      try {
        await post(this, `/users/${user.id}/sessions/${session.id}/re-authenticate`);
        signedOut += 1;
      } catch (error) {
        console.error(`${error}`);
        failed += 1;
      }
    }
  }
  console.log(`${signedOut} of ${sessions} sessions must sign in again`);
  if (failed > 0) throw new Error(`${failed} sessions could not be signed out`);
  return { sessions, signedOut };
}

interface Session {
  id: string;
  state: string;
  last_authenticated_at: string;
}

interface User {
  id: string;
  sessions: Session[];
}

/** All users of the app, page by page. */
async function* users(task: TaskContext): AsyncGenerator<User> {
  for (let skip = 0; ; ) {
    const answer = await fetch(`${task.backend.url}/users.json?limit=500&skip=${skip}`, {
      headers: { Authorization: `Token ${task.backend.token}` },
    });
    if (!answer.ok) throw new Error(`users: ${answer.status} ${await answer.text()}`);
    const page = (await answer.json()) as { objects: User[]; more: boolean };
    yield* page.objects;
    skip += page.objects.length;
    if (!page.more) return;
  }
}

async function post(task: TaskContext, path: string): Promise<void> {
  const answer = await fetch(`${task.backend.url}${path}`, {
    method: "POST",
    headers: { Authorization: `Token ${task.backend.token}` },
  });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
}
