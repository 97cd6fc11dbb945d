// A webhook of the personnel system: when it says that somebody has left, the user is locked at
// once. The request is signed with a shared secret (HMAC with SHA-256 over the body).
//
// Address: POST {origin}/tasks/{app}/personnel-webhook

export const config: TaskConfig = {
  web: true,
  scopes: ["users:read", "users:write", "sessions:end"],
};

export async function authenticate({ request, access }: WebTaskAuthentication) {
  const given = request.headers.get("x-signature") ?? "";
  const bytes = Uint8Array.from(given.match(/[0-9a-f]{2}/g) ?? [], (pair) => parseInt(pair, 16));
  const secret = new TextEncoder().encode(process.env.WEBHOOK_SECRET);
  const algorithm = { name: "HMAC", hash: "SHA-256" } as const;
  const key = await crypto.subtle.importKey("raw", secret, algorithm, false, ["verify"]);
  const body = new TextEncoder().encode(await request.text());
  const isGenuine = await crypto.subtle.verify("HMAC", key, bytes, body);
  return isGenuine ? access.authorized() : access.unauthorized();
}

export async function post(this: TaskContext, { params, response }: WebTaskCall) {
  const { event, employee_number } = params as { event?: string; employee_number?: string };
  if (event !== "left" || !employee_number) return { ignored: true };
  const user = await DB.user.where({ employee_number }).first();
  if (!user) {
    response.status = 404;
    return { error: "nobody has this number" };
  }
  const answer = await fetch(`${this.backend.url}/users/${user.id}/lock`, {
    method: "POST",
    headers: {
      Authorization: `Token ${this.backend.token}`,
      "Content-Type": "application/json",
    },
    body: JSON.stringify({ reason: "the personnel system says: left" }),
  });
  if (!answer.ok) throw new Error(`${user.id}: ${answer.status} ${await answer.text()}`);
  console.log(`${user.display} is locked`);
  return { locked: true };
}
