// CloudCode: tasks that start other tasks, through the API.

// A run is awaited by its request for a while, and then asked for this often.
const RUN_PAUSE_MS = 1000;

const CloudCode = {
  // Queues a run and answers its id.
  async scheduleTask({ task, parameters, at, after, queue } = {}) {
    const body = { params: paramsOf(parameters), queue };
    if (at !== undefined && at !== null) body.at = momentOf(at);
    if (after !== undefined && after !== null) body.after = spanOf(after);
    const run = await askApi("POST", taskPath(task), body);
    return run.id;
  },

  // Runs a task now and answers what it returns.
  async callTask(name, parameters) {
    const path = `${taskPath(name)}?wait=true`;
    let run = await askApi("POST", path, { params: paramsOf(parameters) });
    while (["queued", "running"].includes(run.state)) {
      await new Promise((done) => setTimeout(done, RUN_PAUSE_MS));
      run = await askApi("GET", `/runs/${encodeURIComponent(run.id)}.json`);
    }
    if (run.state === "succeeded") return run.result ?? null;
    const error = new Error(run.error?.message ?? `the run of ${name} is ${run.state}`);
    throw Object.assign(error, { run: run.id, state: run.state, kind: run.error?.kind ?? null });
  },
};

function taskPath(name) {
  if (typeof name !== "string" || name === "") throw new TypeError("which task? name it");
  return `/tasks/${encodeURIComponent(name.toWellFormed())}/run`;
}

function paramsOf(parameters) {
  const isObject = typeof parameters === "object" && parameters !== null;
  if (parameters !== undefined && parameters !== null && !isObject) {
    throw new TypeError("a task's parameters are an object");
  }
  return parameters ?? undefined;
}

function momentOf(at) {
  if (typeof at === "string") return at;
  if (at instanceof Date) return secondsOf(new MachineDate(Math.ceil(at / 1000) * 1000));
  throw new TypeError("at is a Date or a text like 2026-05-03T08:12:00Z");
}

// A number is milliseconds, as timers have it; the API counts in seconds.
function spanOf(after) {
  if (typeof after === "string") return after;
  if (typeof after === "number" && after >= 0 && after < Infinity) {
    return `${Math.ceil(after / 1000)}s`;
  }
  throw new TypeError('after is a number of milliseconds or a text like "10m"');
}
