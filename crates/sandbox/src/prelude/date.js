// Date: the server's clock, which a test or a simulation may have moved.

const MachineDate = Date;
const machineNow = MachineDate.now;
const ahead = native.context.now_ms === null ? 0 : native.context.now_ms - machineNow();
const now = () => machineNow() + ahead;
MachineDate.now = now;

globalThis.Date = new Proxy(MachineDate, {
  construct: (target, args, wanted) => {
    return Reflect.construct(target, args.length === 0 ? [now()] : args, wanted);
  },
  apply: () => new MachineDate(now()).toString(),
});
MachineDate.prototype.constructor = globalThis.Date;

