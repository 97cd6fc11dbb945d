import { assert, clock, lab, test } from "reauth:test";

test("whose contract has ended is locked, once, and cannot get in", async () => {
  const ann = await lab.user({ name: "Ann", contract_end: "2026-01-31" });
  const bea = await lab.user({ name: "Bea", contract_end: "2026-12-31" });
  const cid = await lab.user({ name: "Cid" });
  const [phone, tablet, laptop] = [
    await ann.signIn("phone"),
    await bea.signIn("tablet"),
    await cid.signIn("laptop"),
  ];
  await clock.set("2026-01-31T12:00:00Z");
  assert.equal((await lab.run()).result, { ended: 0, locked: 0 });

  await clock.set("2026-02-01T00:05:00Z");
  assert.equal((await lab.run()).result, { ended: 1, locked: 1 });

  assert.equal((await phone.check()).because, "user_locked");
  assert.equal((await tablet.check()).status, 200);
  assert.equal((await laptop.check()).status, 200);
  assert.equal((await lab.run()).result, { ended: 1, locked: 0 });
  assert.equal((await lab.ledger("user.locked")).length, 1);
});
