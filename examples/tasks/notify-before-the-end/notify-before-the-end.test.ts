import { assert, clock, lab, test } from "reauth:test";

test("who must sign in again soon is told once", async () => {
  const push = await lab.http(() => ({ ok: true }));
  await lab.settings({ max_session_age: "30d", warn_before: "3d" });
  await lab.deploy({ env: { PUSH_URL: `${push.url}/send` } });
  const ann = await lab.user({ name: "Ann", email: "ann@example.com" });
  await ann.signIn("phone");

  await clock.pass("26d");
  await lab.tick();
  assert.equal(push.requests.length, 0);

  await clock.pass("1d");
  await lab.tick();
  await clock.pass("1d");
  await lab.tick();

  assert.equal(push.requests.length, 1);
  const sent = JSON.parse(push.requests[0]!.body);
  assert.equal(sent.to, "ann@example.com");
  assert.ok(sent.text.includes("2026-02-04T09:00:00"), sent.text);
});
