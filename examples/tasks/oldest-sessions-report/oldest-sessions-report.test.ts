import { assert, clock, lab, test } from "reauth:test";

test("the oldest sign-ins are mailed, the very oldest first", async () => {
  for (const name of ["Ann", "Bea", "Cid"]) {
    const user = await lab.user({ name });
    await user.signIn(`${name}'s phone`);
    await clock.pass("1d");
  }
  const mail = await lab.http((request) => {
    assert.equal(request.headers.authorization, "Bearer secret");
    assert.ok(request.headers["idempotency-key"]);
    return { accepted: true };
  });

  const done = await lab.run(
    { count: 2, to: "security@example.com" },
    { env: { MAIL_URL: `${mail.url}/send`, MAIL_KEY: "secret" } },
  );

  assert.equal(done.result, { sessions: 3, mailed: 2 });
  assert.equal(mail.requests.length, 1);
  const sent = JSON.parse(mail.requests[0]!.body);
  assert.equal(sent.subject, "The 2 oldest of 3 sign-ins");
  assert.equal(sent.text.split("\n").map((line: string) => line.split("  ")[1]), ["Ann", "Bea"]);
});

test("a mail service that is down fails the run, and says so", async () => {
  const mail = await lab.http(() => new Response("try later", { status: 503 }));
  const env = { MAIL_URL: mail.url, MAIL_KEY: "secret" };

  const done = await lab.run({ count: 2, to: "a@example.com" }, { env });

  assert.equal(done.state, "queued");
  assert.ok(done.error?.message.includes("503 try later"), done.error?.message);
});
