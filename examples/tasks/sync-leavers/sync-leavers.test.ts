import { assert, clock, lab, test } from "reauth:test";

test("leavers lose access after their last day", async () => {
  const ann = await lab.user({ name: "Ann", employee_number: "17" });
  const bea = await lab.user({ name: "Bea", employee_number: "18" });
  const [phone, tablet] = [await ann.signIn("phone"), await bea.signIn("tablet")];
  const people = await lab.http(() => "employee_number,last_day\n17,2026-01-09\n99,2026-01-09\n");
  const env = { LEAVERS_URL: `${people.url}/leavers.csv` };

  const done = await lab.run({}, { env });

  assert.equal(done.result, { leavers: 2, set: 1, unknown: 1 });
  await clock.set("2026-01-09T23:59:59Z");
  assert.equal((await phone.check()).status, 200);
  await clock.set("2026-01-10T00:00:00Z");
  assert.equal((await phone.check()).status, 401);
  assert.equal((await tablet.check()).status, 200);
});

test("a line that cannot be read fails the run, and holds up no other", async () => {
  let lines = "";
  const people = await lab.http(() => `employee_number,last_day\n${lines}`);
  const wrong = ["18,soon", "18,2026-31-01", "18,2026-02-30", "18", ",2026-01-04", ""];
  for (const [at, line] of wrong.entries()) {
    const ann = await lab.user({ name: "Ann", employee_number: `7${at}` });
    const phone = await ann.signIn("phone");
    lines = `${line}\n7${at},2026-01-04\n`;
    const done = await lab.run({}, { env: { LEAVERS_URL: people.url } });
    const why = done.error?.message ?? "";
    assert.ok(why.startsWith("Error: 1 of 2 leavers") && why.includes(`\n${line}`), why);
    assert.equal((await phone.check()).status, 401);
  }
});
