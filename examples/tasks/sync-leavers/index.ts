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
  const [unknown, failures]: [string[], string[]] = [[], []];
  for (const { employee_number, last_day } of leavers) {
    // The others must not wait for one that goes wrong.
    try {
      const after = dayAfter(last_day ?? "");
      if (!employee_number || !after) throw new Error("this line cannot be read");
      const user = await DB.user.where({ employee_number }).first();
      if (!user) unknown.push(employee_number);
      else if (await end(this, user, after)) set += 1;
    } catch (error) {
      failures.push(`${employee_number},${last_day}: ${error}`);
    }
  }
  if (unknown.length > 0) console.warn(`not known here: ${unknown.join(", ")}`);
  if (failures.length > 0) {
    throw new Error(`${failures.length} of ${leavers.length} leavers:\n${failures.join("\n")}`);
  }
  return { leavers: leavers.length, set, unknown: unknown.length };
}

/** Sets the end; answers whether it could. */
async function end(task: TaskContext, user: DbUser, after: Date): Promise<boolean> {
  const put = await fetch(`${task.backend.url}/users/${user.id}/not-after`, {
    method: "PUT",
    headers: {
      Authorization: `Token ${task.backend.token}`,
      "Content-Type": "application/json",
    },
    body: JSON.stringify({ not_after: after.toISOString(), reason: "left the company" }),
  });
  if (put.ok) return true;
  // A task can bring an end nearer, never put it off: 403 is for a person to look at.
  if (put.status !== 403) throw new Error(`${user.id}: ${put.status} ${await put.text()}`);
  console.warn(`${user.display}: a later last day needs a person`);
  return false;
}

/** When the day after this one begins; nothing for what is no day, such as 2026-02-30. */
function dayAfter(day: string): Date | undefined {
  const date = new Date(`${day}T00:00:00Z`);
  if (Number.isNaN(date.getTime()) || date.toISOString().slice(0, 10) !== day) return undefined;
  date.setUTCDate(date.getUTCDate() + 1);
  return date;
}

function rows(csv: string): Record<string, string>[] {
  const [head, ...lines] = csv.trim().split(/\r?\n/).map((line) => line.split(","));
  return lines.map((cells) => {
    return Object.fromEntries(head!.map((name, at) => [name.trim(), cells[at]?.trim() ?? ""]));
  });
}
