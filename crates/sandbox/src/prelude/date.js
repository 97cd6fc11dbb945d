// Date: the server's clock, which a test or a simulation may have moved.

const MachineDate = Date;
const ahead = native.context.now_ms === null ? 0 : native.context.now_ms - MachineDate.now();
const now = () => MachineDate.now() + ahead;

globalThis.Date = new Proxy(MachineDate, {
  construct: (target, args, wanted) => {
    return Reflect.construct(target, args.length === 0 ? [now()] : args, wanted);
  },
  apply: () => new MachineDate(now()).toString(),
  get: (target, key) => (key === "now" ? now : Reflect.get(target, key)),
});
MachineDate.prototype.constructor = globalThis.Date;

