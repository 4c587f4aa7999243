// What is known of a run: its events (schema: carcls/train/events.py) taken in one after the other.
// Events may be anybody's, so everything is checked here: what comes out of this module has the
// kinds that the comments say. Nothing here touches the page.

const number = value => (typeof value === "number" && Number.isFinite(value) ? value : null);
const string = value => (typeof value === "string" ? value : "");
const list = value => (Array.isArray(value) ? value : []);
const strings = value => list(value).filter(item => typeof item === "string");
const record = value => (value && typeof value === "object" && !Array.isArray(value) ? value : {});

const LOWER_IS_BETTER = new Set(["loss", "log_loss"]);

// id: eight hex digits
export function newRun(id) {
  return {
    id,
    seen: new Set(), // ids of events: none counts twice
    metric: "accuracy", // what decides
    photos: [null, null, null], // to train on, to validate, to predict
    about: {}, // of the last start: {settings, machine: lines, source, endsAt: unix time or null}
    networks: new Map(), // by name, in the order of the plan
    latest: null, // the newest phase, step or epoch event
    submission: null,
    verdicts: new Map(), // the newest of each subject and network
    pictures: new Map(), // the newest of each name
    tuned: "",
    error: "", // why it failed
    end: null,
  };
}

// Takes in one event, a parsed JSON object; false where it is there already or is none.
export function take(run, event) {
  const id = string(record(event).id);
  if (!id || run.seen.has(id)) return false;
  run.seen.add(id);
  const kind = string(event.kind);
  if (Object.hasOwn(TAKE, kind)) TAKE[kind](run, event);
  return true;
}

const TAKE = {
  start(run, event) {
    run.metric = string(event.metric) || "accuracy";
    const { train, validation, test } = record(event.photos);
    run.photos = [train, validation, test].map(number);
    run.about = {
      settings: record(event.settings),
      machine: strings(event.machine),
      source: string(event.source),
      endsAt: number(event.ends_at),
    };
    plan(run, event.networks);
    run.error = ""; // a run that goes on
    run.end = null;
  },
  phase: (run, event) => { run.latest = { kind: "phase", name: string(event.name) }; },
  step(run, event) {
    networkOf(run, event.network);
    const row = rowOf(event);
    if (!("epoch" in event)) delete row.stage; // it is of no training
    run.latest = { ...row, kind: "step", what: string(event.what) };
  },
  epoch(run, event) {
    const row = rowOf(event);
    const network = networkOf(run, event.network);
    if (!network.rows.length) network.before = epochsBefore(run, network);
    addRow(network, row);
    run.latest = { ...row, kind: "epoch" };
  },
  early_stop(run, event) {
    const network = networkOf(run, event.network);
    network.stopped = network.rows.at(-1)?.stage ?? null;
  },
  submission(run, event) {
    run.submission = {
      madeBy: string(event.made_by),
      metric: string(event.metric) || run.metric,
      score: number(event.score),
      early: event.early === true,
    };
  },
  verdict(run, event) {
    const verdict = {
      id: event.id,
      of: string(event.of),
      network: string(event.network),
      accepted: event.accepted === true,
      reason: string(event.reason),
    };
    run.verdicts.set(`${verdict.of} ${verdict.network}`, verdict);
  },
  tuned(run, event) {
    run.tuned = string(event.verdict);
    // What was to be trained before it, and what it has trained itself.
    for (const [name, { rows }] of run.networks) if (!rows.length) run.networks.delete(name);
    plan(run, event.networks);
  },
  picture(run, event) {
    const picture = { id: event.id, name: string(event.name), caption: string(event.caption) };
    run.pictures.set(picture.name, picture);
  },
  failed: (run, event) => { run.error = string(event.error) || "no reason was given"; },
  end(run, event) {
    run.end = {
      metric: string(event.metric) || run.metric,
      score: number(event.validation_score),
      interval: list(event.validation_interval_95).map(number),
      trueScore: number(event.true_score),
      madeBy: string(event.made_by),
      warnings: strings(event.warnings),
    };
  },
};

// plan: [{height, width, epochs}] by stage; rows: of epoch events; before: epochs of the networks
// that it goes on from; stopped: the stage that was last stopped early, or null
function networkOf(run, name) {
  const known = string(name);
  if (!run.networks.has(known)) {
    run.networks.set(known, { name: known, plan: [], rows: [], before: 0, stopped: null });
  }
  return run.networks.get(known);
}

function plan(run, networks) {
  for (const planned of list(networks).map(record)) {
    networkOf(run, planned.name).plan = list(planned.stages)
      .map(stage => list(stage).map(number))
      .filter(stage => stage.length === 3 && !stage.includes(null))
      .map(([height, width, epochs]) => ({ height, width, epochs }));
  }
}

// What a step or epoch event has: all numbers by their names; network, stage and best.
function rowOf(event) {
  const row = Object.fromEntries(
    Object.entries(event).filter(([, value]) => number(value) !== null),
  );
  row.lr ??= row.learning_rate; // as Keras calls it
  row.network = string(event.network);
  row.stage ??= 1;
  if ("best" in event) row.best = event.best === true;
  return row;
}

// A network that goes on from an earlier state, or anew, overwrites what came after that.
function addRow(network, row) {
  row.epoch ??= (network.rows.at(-1)?.epoch ?? 0) + 1;
  const isBefore = other => other.stage < row.stage
    || (other.stage === row.stage && other.epoch < row.epoch);
  network.rows = network.rows.filter(isBefore);
  const earlier = network.rows.findLast(other => other.stage < row.stage);
  // Epochs through all stages; of those that an earlier session has made the plan tells how many.
  const planned = network.before + epochsOf(network.plan.slice(0, row.stage - 1));
  row.x = (earlier?.x ?? planned) + row.epoch;
  network.rows.push(row);
}

// Epochs of the networks that this one goes on from: it is named after them.
function epochsBefore(run, network) {
  const [, member] = /^(.*), (?:pseudo|refit)$/.exec(network.name) ?? [];
  const isOlder = other => other !== network
    && (other.name === member || other.name === `${member}, pseudo`);
  const older = member === undefined ? [] : [...run.networks.values()].filter(isOlder);
  return Math.max(0, ...older.map(other => other.rows.at(-1)?.x ?? 0));
}

// The name of the network that works, or worked last; null before there is one.
export function currentNetwork(run) {
  if (run.latest && run.latest.kind !== "phase") return run.latest.network;
  return [...run.networks.values()].findLast(network => network.rows.length)?.name ?? null;
}

// "to come", "running", "done", "not finished", or "not trained" where the run is over; "done
// before" where an earlier session has trained it, whose epochs did not come.
export function stateOf(run, network) {
  const isOver = run.end !== null || run.error !== "";
  if (run.latest && currentNetwork(run) === network.name && !isOver && !isTrained(network)) {
    return "running";
  }
  if (network.rows.length) return run.error && !isTrained(network) ? "not finished" : "done";
  if (run.verdicts.has(`views ${network.name}`)) return "done before";
  return isOver ? "not trained" : "to come";
}

function isTrained(network) {
  const last = network.rows.at(-1);
  if (!last || !last.epochs) return false;
  const isLastStage = last.stage >= (last.stages ?? 1);
  return isLastStage && (last.epoch >= last.epochs || network.stopped === last.stage);
}

const epochsOf = stages => stages.reduce((sum, stage) => sum + stage.epochs, 0);

// Where a network's curve will end: the epochs of all its stages, and those before it; 0 where
// nothing says how many.
export function epochsPlanned(network) {
  const planned = network.before + epochsOf(network.plan);
  const last = network.rows.at(-1);
  if (!last) return planned;
  if (isTrained(network)) return last.x;
  if (!last.epochs) return 0;
  const ofStage = last.x - last.epoch + last.epochs;
  return ofStage + epochsOf(network.plan.slice(last.stage));
}

// A network's own epochs: {done, planned}; planned is 0 where nothing says how many.
export function progressOf(network) {
  const done = (network.rows.at(-1)?.x ?? network.before) - network.before;
  return { done, planned: Math.max(0, epochsPlanned(network) - network.before) };
}

// Stretches of one photo size: [{from, to, label}], what is made and then what is planned.
export function sizesOf(network) {
  const parts = [];
  const add = (to, height, width) => {
    const label = `${height}×${width}`;
    if (parts.at(-1)?.label === label) parts.at(-1).to = to;
    else parts.push({ from: parts.at(-1)?.to ?? network.before, to, label });
  };
  for (const row of network.rows) if (row.height && row.width) add(row.x, row.height, row.width);
  const last = network.rows.at(-1);
  if (last && isTrained(network)) return parts;
  let to = last ? last.x - last.epoch : network.before;
  for (const stage of network.plan.slice(last ? last.stage - 1 : 0)) {
    to += stage === network.plan[last?.stage - 1] ? last.epochs ?? stage.epochs : stage.epochs;
    add(to, stage.height, stage.width);
  }
  return parts;
}

const isBetter = (measure, a, b) => (LOWER_IS_BETTER.has(measure) ? a < b : a > b);

// A network's best epoch, as the run says, else by what decides: {row, measure, value}, the value
// on validation photos; null where nothing is validated.
export function bestEpoch(run, network) {
  const measure = [run.metric, "accuracy", "loss"].find(
    name => network.rows.some(row => `val_${name}` in row),
  );
  const known = network.rows.filter(row => `val_${measure}` in row).map(
    row => ({ row, measure, value: row[`val_${measure}`] }),
  );
  if (known.some(({ row }) => "best" in row)) return known.findLast(({ row }) => row.best) ?? null;
  return known.reduce((best, each) => (best && !isBetter(measure, each.value, best.value)
    ? best : each), null);
}

// The best network of a run so far, with its best epoch: {network, row, measure, value}, or null.
export function bestOf(run) {
  let best = null;
  for (const network of run.networks.values()) {
    const epoch = bestEpoch(run, network);
    if (epoch && (!best || isBetter(epoch.measure, epoch.value, best.value))) {
      best = { network, ...epoch };
    }
  }
  return best;
}

// Names of what is measured on train or validation photos, loss and accuracy first.
export function measuresOf(runs) {
  const names = new Set(["loss", "accuracy"]);
  for (const run of runs) {
    for (const network of run.networks.values()) {
      for (const key of Object.keys(network.rows.at(-1) ?? {})) {
        if (key.startsWith("val_")) names.add(key.slice("val_".length));
      }
    }
  }
  return [...names].slice(0, 6);
}
