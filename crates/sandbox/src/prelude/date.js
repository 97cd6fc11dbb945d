// Date: the server's clock, which a test or a simulation may have moved. `setClock` tells it when
// the job comes; until then it is the machine's own.

const MachineDate = Date;
const machineNow = MachineDate.now;
let ahead = 0;
const now = () => machineNow() + ahead;
MachineDate.now = now;

globalThis.Date = new Proxy(MachineDate, {
  construct: (target, args, wanted) => {
    return Reflect.construct(target, args.length === 0 ? [now()] : args, wanted);
  },
  apply: () => new MachineDate(now()).toString(),
});
MachineDate.prototype.constructor = globalThis.Date;

function setClock(nowMs) {
  ahead = nowMs === null || nowMs === undefined ? 0 : nowMs - machineNow();
}
