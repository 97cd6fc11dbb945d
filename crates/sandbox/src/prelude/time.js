// Date, timers, queueMicrotask, reportError, performance.

// Date is the server's clock, which a test or a simulation may have moved. `setClock` tells it when
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

// The loop outside calls `fireDue` when it is time for a timer.

const timers = new Map();
let lastTimer = 0;

function addTimer(call, delay, args, isRepeated) {
  if (typeof call !== "function") throw new TypeError("a timer calls a function");
  const wanted = Number(delay);
  const pause = Math.max(Number.isFinite(wanted) ? wanted : 0, isRepeated ? 1 : 0);
  const id = (lastTimer += 1);
  timers.set(id, { call, args, pause, isRepeated, at: native.now() + pause });
  return id;
}

const setTimeout = (call, delay = 0, ...args) => addTimer(call, delay, args, false);
const setInterval = (call, delay = 0, ...args) => addTimer(call, delay, args, true);
const clearTimeout = (id) => void timers.delete(id);
const clearInterval = clearTimeout;

// What nobody catches ends the run, as an error in a timer does.
function reportError(error) {
  addTimer(() => {
    throw error;
  }, 0, [], false);
}

function queueMicrotask(call) {
  if (typeof call !== "function") throw new TypeError("queueMicrotask calls a function");
  Promise.resolve().then(() => call()).catch(reportError);
}

const performance = {
  timeOrigin: now(),
  now: () => native.now(),
  toJSON() {
    return { timeOrigin: this.timeOrigin };
  },
};

// Calls the first timer whose time has come, so that promises settle between two timers. Answers
// 0 if it called one, else milliseconds until the next, or -1 if there is none.
function fireDue() {
  let next = null;
  for (const [id, timer] of timers) {
    if (!next || timer.at < next.timer.at) next = { id, timer };
  }
  if (!next) return -1;
  const now = native.now();
  if (next.timer.at > now) return Math.max(next.timer.at - now, 0.001);
  if (next.timer.isRepeated) {
    next.timer.at = now + next.timer.pause;
  } else {
    timers.delete(next.id);
  }
  next.timer.call(...next.timer.args);
  return 0;
}
