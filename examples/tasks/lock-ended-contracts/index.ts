// Users whose contract has ended are locked: none of their devices gets in any more, and they can
// sign in nowhere until someone unlocks them. A task cannot: it can end access, never give it.

export const config: TaskConfig = {
  // The day that is compared below is the one in UTC.
  schedule: { cron: "5 0 * * *", zone: "UTC" },
  scopes: ["users:read", "users:write", "sessions:end"],
  single_instance: true,
  retries: 2,
};

export async function run(this: TaskContext) {
  const today = new Date().toISOString().slice(0, 10);
  const ended = await DB.user.where("contract_end < ?", today).toArray();
  let locked = 0;
  let failed = 0;
  for (const user of ended) {
    // The others must not wait for one that goes wrong.
    try {
      if (await lock(this, user)) locked += 1;
    } catch (error) {
      console.error(`${user.display}: ${error}`);
      failed += 1;
    }
  }
  if (failed > 0) throw new Error(`${failed} of ${ended.length} users could not be locked`);
  return { ended: ended.length, locked };
}

/** Locks a user; answers whether that was still to do. */
async function lock(task: TaskContext, user: DbUser): Promise<boolean> {
  const headers = {
    Authorization: `Token ${task.backend.token}`,
    "Content-Type": "application/json",
  };
  const url = `${task.backend.url}/users/${user.id}`;
  const found = await fetch(url, { headers });
  if (!found.ok) throw new Error(`${found.status} ${await found.text()}`);
  const state = (await found.json()) as { locked: boolean };
  if (state.locked) return false;
  const reason = `the contract ended on ${user.contract_end}`;
  const body = JSON.stringify({ reason });
  const answer = await fetch(`${url}/lock`, { method: "POST", headers, body });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  console.log(`${user.display} is locked: ${reason}`);
  return true;
}
