import { assert, lab, test } from "reauth:test";

// Of the body below with the secret "sesame":
//   printf %s "$BODY" | openssl dgst -sha256 -hmac sesame
const BODY = '{"event":"left","employee_number":"17"}';
const SIGNATURE = "43cf79f329ac02a5e88850e6bf6fdad3e1f735019d615b4c739e53206a06dd75";

async function ready() {
  const ann = await lab.user({ name: "Ann", employee_number: "17" });
  const phone = await ann.signIn("phone");
  await lab.deploy({ env: { WEBHOOK_SECRET: "sesame" } });
  return phone;
}

function ask(signature: string, body = BODY) {
  const headers = { "content-type": "application/json", "x-signature": signature };
  return lab.web({ method: "POST", headers, body });
}

test("a signed message locks who has left", async () => {
  const phone = await ready();
  const answer = await ask(SIGNATURE);
  assert.equal([answer.status, answer.body], [200, { locked: true }]);
  assert.equal((await phone.check()).because, "user_locked");
});

test("a message that is not signed, or was changed, is refused", async () => {
  const phone = await ready();
  assert.equal((await ask("")).status, 401);
  assert.equal((await ask(SIGNATURE, BODY.replace("17", "18"))).status, 401);
  assert.equal((await phone.check()).status, 200);
});
