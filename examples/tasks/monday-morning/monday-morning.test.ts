import { assert, clock, lab, test } from "reauth:test";

test("on Monday at five, Vienna time, the group signs in again, and nobody else", async () => {
  const ann = await lab.user({ name: "Ann" });
  await ann.join("field-crew");
  const bea = await lab.user({ name: "Bea" });
  const [phone, tablet] = [await ann.signIn("phone"), await bea.signIn("tablet")];

  // Monday, 12 January 2026: Vienna is one hour ahead of UTC.
  await clock.set("2026-01-12T03:59:59Z");
  await lab.tick();
  assert.equal((await phone.check()).status, 200);

  await clock.set("2026-01-12T04:00:00Z");
  await lab.tick();
  assert.equal((await phone.check()).status, 401);
  assert.equal((await tablet.check()).status, 200);

  const again = await ann.signIn("phone");
  await clock.pass("6d");
  await lab.tick();
  assert.equal((await again.check()).status, 200);
});
