// Which curves are drawn, and in which charts. Of one run all networks that are not hidden, each in
// a colour; of several runs each one's best network, in the run's colour.

import { Chart } from "./charts.js";
import { bestEpoch, bestOf, epochsPlanned, measuresOf, sizesOf } from "./model.js";
import { part } from "./view.js";
import { capital, metricName, percent, score, short } from "./words.js";

export const COLOURS = 8;
const SPEEDS = new Map([
  ["lr", ["Learning rate", short]],
  ["images_per_s", ["Images/s", short]],
  ["waiting", ["Waiting for input", percent]],
]);

const charts = new Map(); // by the name of what they show
const hidden = new Set(); // "run network" of curves that are not wanted

const keyOf = (run, network) => `${run.id} ${network.name}`;

// The colour of one of several networks of a run that is shown alone; null where it is hidden.
export function colourOf(run, network) {
  if (hidden.has(keyOf(run, network))) return null;
  return [...run.networks.keys()].indexOf(network.name) % COLOURS;
}

export function toggle(run, network) {
  if (!hidden.delete(keyOf(run, network))) hidden.add(keyOf(run, network));
}

// runs: [{run, label, colour}], those that are chosen
export function showCurves(runs) {
  part("overlaid").hidden = runs.length < 2;
  const shown = runs.length > 1 ? runs.flatMap(bestNetwork) : runs.flatMap(allNetworks);
  const curves = shown.filter(({ network }) => network.rows.length).map(
    ({ run, network, label, colour }) => (
      { label, colour, rows: network.rows, best: bestEpoch(run, network)?.row.x ?? null }
    ),
  );
  const total = Math.max(1, ...shown.flatMap(
    ({ network }) => [epochsPlanned(network), network.rows.at(-1)?.x ?? 0],
  ));
  const bands = bandsOf(shown.map(({ network }) => network));
  const has = key => curves.some(({ rows }) => rows.some(row => row[key] !== undefined));
  const measures = measuresOf(runs.map(({ run }) => run))
    .filter(name => !curves.length || has(name) || has(`val_${name}`));
  const speeds = [...SPEEDS.keys()].filter(has);
  const plain = curves.map(curve => ({ ...curve, best: null })); // no ring in these
  for (const name of measures) chartOf(name, measureChart).show(curves, bands, total);
  for (const name of speeds) chartOf(name, speedChart).show(plain, bands, total);
  for (const name of charts.keys()) if (![...measures, ...speeds].includes(name)) remove(name);
}

// Photo sizes behind the curves: the first network's, then those of what goes on from it.
function bandsOf(networks) {
  const bands = [];
  for (const network of networks) {
    for (const size of sizesOf(network)) {
      const last = bands.at(-1);
      const from = Math.max(size.from, last?.to ?? 0);
      if (size.to <= from) continue;
      if (last?.label === size.label) last.to = size.to;
      else bands.push({ ...size, from });
    }
  }
  return bands;
}

function bestNetwork({ run, label, colour }) {
  const network = bestOf(run)?.network ?? [...run.networks.values()][0];
  return network ? [{ run, network, label, colour }] : [];
}

function allNetworks({ run, colour }) {
  const isOne = run.networks.size < 2;
  return [...run.networks.values()].map(network => ({
    run, network,
    label: network.name || "the network",
    colour: isOne ? colour : colourOf(run, network),
  })).filter(each => each.colour !== null);
}

function chartOf(name, create) {
  if (!charts.has(name)) charts.set(name, create(name));
  return charts.get(name);
}

const measureChart = name => new Chart(part("measures"), capital(metricName(name)), [
  { key: `val_${name}`, label: "validation" }, { key: name, label: "train", dashed: true },
], score, short);

function speedChart(name) {
  const [title, say] = SPEEDS.get(name);
  return new Chart(part("speeds"), title, [{ key: name, label: "" }], say, say);
}

function remove(name) {
  charts.get(name).remove();
  charts.delete(name);
}

export function redrawCurves() {
  for (const chart of charts.values()) chart.redraw();
}
