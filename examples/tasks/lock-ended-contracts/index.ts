// Users whose contract has ended are locked: none of their devices gets in any more, and they can
// sign in nowhere until someone unlocks them. A task cannot: it can end access, never give it.

export const config: TaskConfig = {
  // The day that is compared below is the one in UTC.
  schedule: { cron: "5 0 * * *", zone: "UTC" },
  scopes: ["users:read", "users:write", "sessions:end"],
  single_instance: true,
};

export async function run(this: TaskContext) {
  const today = new Date().toISOString().slice(0, 10);
  const ended = await DB.user.where("contract_end < ?", today).toArray();
  let locked = 0;
  for (const user of ended) {
    const headers = {
      Authorization: `Token ${this.backend.token}`,
      "Content-Type": "application/json",
    };
    const url = `${this.backend.url}/users/${user.id}`;
    const state = (await (await fetch(url, { headers })).json()) as { locked: boolean };
    if (state.locked) continue;
    const reason = `the contract ended on ${user.contract_end}`;
    const body = JSON.stringify({ reason });
    const answer = await fetch(`${url}/lock`, { method: "POST", headers, body });
    if (!answer.ok) throw new Error(`${user.id}: ${answer.status} ${await answer.text()}`);
    console.log(`${user.display} is locked: ${reason}`);
    locked += 1;
  }
  return { ended: ended.length, locked };
}
