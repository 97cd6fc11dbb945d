// Makes every device sign in again that signed in more than `params.days` days ago, so that people
// who have left the company lose access in the end. Runs on a schedule; needs the scopes
// users:read and sessions:end.

const DAY_MS = 24 * 60 * 60 * 1000;
const PAGE = 100;

export async function run(params) {
  const days = params.days ?? 30;
  const before = Date.now() - days * DAY_MS;
  const report = { users: 0, sessions: 0, too_old: 0, signed_out: 0, failed: 0 };

  for (let skip = 0; ; skip += PAGE) {
    const page = await get.call(this, `/users.json?limit=${PAGE}&skip=${skip}`);
    for (const user of page.objects) {
      report.users += 1;
      report.sessions += user.sessions.length;
      const old = user.sessions.filter((session) => isTooOld(session, before));
      report.too_old += old.length;
      for (const session of old) {
        const done = await reAuthenticate.call(this, user, session);
        report[done ? "signed_out" : "failed"] += 1;
      }
    }
    if (!page.more) break;
  }

  console.log(`${report.signed_out} of ${report.sessions} sessions must sign in again`);
  if (report.failed > 0) throw new Error(`${report.failed} sessions could not be signed out`);
  return report;
}

function isTooOld(session, before) {
  return session.state === "ENROLLED" && Date.parse(session.last_authenticated_at) < before;
}

async function reAuthenticate(user, session) {
  const path = `/users/${user.id}/sessions/${session.id}/re-authenticate.json`;
  const response = await post.call(this, path);
  if (response.status === 204) return true;
  console.error(`${session.id}: ${response.status} ${response.statusText}`);
  return false;
}

async function get(path) {
  const response = await fetch(this.backend.url + path, { headers: headers.call(this) });
  if (!response.ok) throw new Error(`GET ${path}: ${response.status} ${await response.text()}`);
  return response.json();
}

function post(path) {
  return fetch(this.backend.url + path, { method: "POST", headers: headers.call(this) });
}

function headers() {
  return { "Authorization": `Token ${this.backend.token}`, "Content-Type": "application/json" };
}
