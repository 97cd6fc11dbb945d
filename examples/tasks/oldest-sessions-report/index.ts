// The oldest sign-ins, mailed every Monday through an HTTP mail API.
//
// Deploy it with the address and the key of your mail service:
//   reauth task deploy tasks/oldest-sessions-report \
//     --env MAIL_URL=https://api.mail.example/send --env MAIL_KEY=…

export const config: TaskConfig = {
  schedule: { cron: "0 8 * * 1", zone: "Europe/Vienna" },
  scopes: ["users:read"],
  allow_hosts: ["api.mail.example"],
  params: { count: 10, to: "security@example.com" },
  retries: 3,
};

interface Session {
  id: string;
  state: string;
  last_authenticated_at: string;
  label: string | null;
  device: { id: string };
}

export async function run(this: TaskContext, params: { count: number; to: string }) {
  const sessions: { user: string; device: string; since: string }[] = [];
  for (let skip = 0; ; skip += 1000) {
    const answer = await fetch(`${this.backend.url}/users?limit=1000&skip=${skip}`, {
      headers: { Authorization: `Token ${this.backend.token}` },
    });
    if (!answer.ok) throw new Error(`users: ${answer.status}`);
    const page = (await answer.json()) as {
      more: boolean;
      objects: { id: string; sessions: Session[] }[];
    };
    for (const user of page.objects) {
      for (const session of user.sessions.filter((one) => one.state === "ENROLLED")) {
        const device = session.label ?? session.device.id;
        sessions.push({ user: user.id, device, since: session.last_authenticated_at });
      }
    }
    if (!page.more) break;
  }
  sessions.sort((one, other) => one.since.localeCompare(other.since));
  const oldest = sessions.slice(0, params.count);
  const names = new Map<string, string>();
  for (const user of await DB.user.where("id in ?", oldest.map((one) => one.user)).toArray()) {
    names.set(user.id, user.display);
  }
  const lines = oldest.map((one) => `${one.since}  ${names.get(one.user)}  ${one.device}`);
  const answer = await fetch(String(process.env.MAIL_URL), {
    method: "POST",
    headers: {
      Authorization: `Bearer ${process.env.MAIL_KEY}`,
      "Content-Type": "application/json",
      // The same for every try of this run: the mail goes out once.
      "Idempotency-Key": this.run.id,
    },
    body: JSON.stringify({
      to: params.to,
      subject: `The ${oldest.length} oldest of ${sessions.length} sign-ins`,
      text: lines.join("\n"),
    }),
  });
  if (!answer.ok) throw new Error(`mail: ${answer.status} ${await answer.text()}`);
  return { sessions: sessions.length, mailed: oldest.length };
}
