import { assert, clock, lab, test } from "reauth:test";

test("who signed in too long ago must sign in again", async () => {
  const ann = await lab.user({ name: "Ann", email: "ann@example.com" });
  const phone = await ann.signIn("phone");
  await clock.pass("20d");
  const laptop = await ann.signIn("laptop");
  await clock.pass("10d");

  const done = await lab.run({ days: 30 });

  assert.equal(done.state, "succeeded");
  assert.equal(done.result, { sessions: 2, signedOut: 1 });
  assert.equal(await phone.state(), "LOCKED");
  assert.equal(await laptop.state(), "ENROLLED");
});

test("a sign-in makes a session young again", async () => {
  const bea = await lab.user({ name: "Bea" });
  await bea.signIn("phone");
  await clock.pass("29d");
  await bea.signIn("phone");
  await clock.pass("2d");

  const done = await lab.run();

  assert.equal(done.result, { sessions: 1, signedOut: 0 });
});

test("a dry run changes nothing and says what it would", async () => {
  const ann = await lab.user({ name: "Ann" });
  const phone = await ann.signIn("phone");
  await clock.pass("20d");

  const done = await lab.run({ days: 10 }, { dryRun: true });

  assert.equal(done.changes.length, 1);
  assert.equal(await phone.state(), "ENROLLED");
});
