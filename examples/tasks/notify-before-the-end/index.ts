// Whoever must sign in again soon is told in time, through the app's own notification service. It
// is started by the ledger: `session.ending_soon` is written once a sign-in, as long before the end
// as the app's setting `warn_before` says.

export const config: TaskConfig = {
  on: ["session.ending_soon"],
  scopes: ["ledger:read", "users:read"],
  allow_hosts: ["push.example.com"],
  retries: 5,
};

interface Event {
  user: string;
  change: { session: string; ends_at: number; because: string; policy: string | null };
}

export async function run(this: TaskContext, params: { event: Event }) {
  const { user, change } = params.event;
  const person = await DB.user.first(user);
  if (!person) return { told: false };
  // Moments in the ledger are microseconds.
  const endsAt = new Date(change.ends_at / 1000).toISOString();
  const answer = await fetch(String(process.env.PUSH_URL), {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": this.run.id },
    body: JSON.stringify({
      to: person.email,
      text: `Please sign in again before ${endsAt}.`,
    }),
  });
  if (!answer.ok) throw new Error(`push: ${answer.status}`);
  return { told: true };
}
