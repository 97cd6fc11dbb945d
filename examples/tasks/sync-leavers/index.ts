// People who have left, from a CSV file that the personnel department serves: each gets an end date
// (`not_after`), so that their access ends with their last day, whatever else is agreed.
//
// The file has a header line: employee_number,last_day

export const config: TaskConfig = {
  schedule: { cron: "15 * * * *", zone: "UTC" },
  scopes: ["users:read", "users:write", "sessions:end"],
  allow_hosts: ["people.example.com"],
  single_instance: true,
  retries: 2,
};

export async function run(this: TaskContext) {
  const answer = await fetch(String(process.env.LEAVERS_URL));
  if (!answer.ok) throw new Error(`the list of leavers: ${answer.status}`);
  const leavers = rows(await answer.text());
  let set = 0;
  const [unknown, unreadable]: [string[], string[]] = [[], []];
  for (const { employee_number, last_day } of leavers) {
    if (!employee_number || !/^\d{4}-\d{2}-\d{2}$/.test(last_day ?? "")) {
      // The others must not wait for this one.
      unreadable.push(`${employee_number},${last_day}`);
      continue;
    }
    const user = await DB.user.where({ employee_number }).first();
    if (!user) {
      unknown.push(employee_number);
      continue;
    }
    const after = new Date(`${last_day}T00:00:00Z`);
    after.setUTCDate(after.getUTCDate() + 1);
    const put = await fetch(`${this.backend.url}/users/${user.id}/not-after`, {
      method: "PUT",
      headers: {
        Authorization: `Token ${this.backend.token}`,
        "Content-Type": "application/json",
      },
      body: JSON.stringify({ not_after: after.toISOString(), reason: "left the company" }),
    });
    // A task can bring an end nearer, never put it off: 403 is for a person to look at.
    if (put.status === 403) console.warn(`${user.display}: a later last day needs a person`);
    else if (!put.ok) throw new Error(`${user.id}: ${put.status} ${await put.text()}`);
    else set += 1;
  }
  if (unreadable.length > 0) throw new Error(`lines cannot be read: ${unreadable.join(" ")}`);
  if (unknown.length > 0) console.warn(`not known here: ${unknown.join(", ")}`);
  return { leavers: leavers.length, set, unknown: unknown.length };
}

function rows(csv: string): Record<string, string>[] {
  const [head, ...lines] = csv.trim().split(/\r?\n/).map((line) => line.split(","));
  return lines.map((cells) => {
    return Object.fromEntries(head!.map((name, at) => [name.trim(), cells[at]?.trim() ?? ""]));
  });
}
