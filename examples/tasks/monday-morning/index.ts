// Everyone in a group signs in again every Monday at 05:00 local time, by one cut-off: whatever the
// number of devices, it is one moment.

export const config: TaskConfig = {
  schedule: { cron: "0 5 * * 1", zone: "Europe/Vienna" },
  misfire: "once",
  scopes: ["sessions:end"],
  params: { group: "field-crew" },
  retries: 2,
};

export async function run(this: TaskContext, params: { group: string }) {
  const answer = await fetch(`${this.backend.url}/revocations`, {
    method: "POST",
    headers: {
      Authorization: `Token ${this.backend.token}`,
      "Content-Type": "application/json",
    },
    body: JSON.stringify({
      filter: { group: params.group },
      action: "re-authenticate",
      reason: "every Monday morning",
    }),
  });
  if (!answer.ok) throw new Error(`revocation: ${answer.status} ${await answer.text()}`);
  return { group: params.group };
}
