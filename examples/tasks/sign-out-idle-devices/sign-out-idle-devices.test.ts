import { assert, clock, lab, test } from "reauth:test";

test("idle devices sign out, those in use and those of the group stay", async () => {
  const ann = await lab.user({ name: "Ann" });
  const [phone, laptop] = [await ann.signIn("phone"), await ann.signIn("laptop")];
  const kiosk = await lab.user({ name: "Kiosk" });
  await kiosk.join("always-on");
  const screen = await kiosk.signIn("screen");
  await clock.pass("10d");
  assert.equal((await laptop.check()).status, 200);
  await clock.pass("5d");

  const done = await lab.run({ days: 14, except: "always-on" });

  assert.equal(done.result, { signedOut: 1 });
  assert.equal(await phone.state(), "LOCKED");
  assert.equal(await laptop.state(), "ENROLLED");
  assert.equal(await screen.state(), "ENROLLED");
});
