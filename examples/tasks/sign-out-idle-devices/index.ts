// Devices that nobody has used for N days sign out, except those of one group.
//
// "Used" is what Reauth has seen: a check, a connect, a sign-in.

export const config: TaskConfig = {
  schedule: { cron: "30 4 * * *", zone: "Europe/Vienna" },
  scopes: ["users:read", "sessions:end"],
  params: { days: 14, except: "always-on" },
  single_instance: true,
  retries: 2,
};

interface Session {
  id: string;
  state: string;
  last_connected_at: string | null;
  last_authenticated_at: string;
}

interface User {
  id: string;
  sessions: Session[];
}

export async function run(this: TaskContext, params: { days: number; except: string }) {
  const before = Date.now() - params.days * 24 * 60 * 60 * 1000;
  const spared = new Set<string>();
  const members = `/groups/${encodeURIComponent(params.except)}/members`;
  for await (const member of all<{ id: string }>(this, members)) spared.add(member.id);
  let signedOut = 0;
  let failed = 0;
  for await (const user of all<User>(this, "/users")) {
    if (spared.has(user.id)) continue;
    for (const session of user.sessions) {
      const used = Date.parse(session.last_connected_at ?? session.last_authenticated_at);
      if (session.state !== "ENROLLED" || used > before) continue;
      // The others must not wait for one that goes wrong.
      try {
        await call(this, "POST", `/users/${user.id}/sessions/${session.id}/re-authenticate`);
        signedOut += 1;
      } catch (error) {
        console.error(`${error}`);
        failed += 1;
      }
    }
  }
  console.log(`${signedOut} idle devices signed out, ${spared.size} users spared`);
  if (failed > 0) throw new Error(`${failed} devices could not be signed out`);
  return { signedOut };
}

/** Everything of a list, page by page. */
async function* all<T>(task: TaskContext, path: string): AsyncGenerator<T> {
  for (let skip = 0; ; ) {
    const answer = await call(task, "GET", `${path}?limit=1000&skip=${skip}`);
    const page = (await answer.json()) as { objects: T[]; more: boolean };
    yield* page.objects;
    skip += page.objects.length;
    if (!page.more) return;
  }
}

async function call(task: TaskContext, method: string, path: string): Promise<Response> {
  const headers = { Authorization: `Token ${task.backend.token}` };
  const answer = await fetch(task.backend.url + path, { method, headers });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer;
}
