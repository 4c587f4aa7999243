// The live page: one stream of events (EventSource) → what is known of runs → the page. The stream
// is of the runs that are chosen; events are told apart by id, so that repeats harm nothing.

import { COLOURS, colourOf, redrawCurves, showCurves, toggle } from "./curves.js";
import { bestOf, currentNetwork, newRun, progressOf, take } from "./model.js";
import {
  part, setText, showDecided, showHead, showPictures, showPlan, showRuns, showSettings, showText,
} from "./view.js";
import { clockTime, duration, isStop, score } from "./words.js";

const REOPEN_MS = 3000; // pause before a stream that was refused is asked for again

const summaries = new Map(); // run → its summary, as the server sends it
const runs = new Map(); // run → what is known of it from its events
const colours = new Map(); // chosen run → its colour, in the order of choice
let source = null;
let lostAt = null; // unix time since when there is no connection
let ahead = 0; // seconds that the server's clock is ahead of this one
let announced = "";

const now = () => Date.now() / 1000 + ahead;
const chosen = () => [...colours.keys()];

// --- the stream

function connect() {
  source?.close();
  const query = colours.size ? `?runs=${chosen().join(",")}` : "";
  source = new EventSource(`events${query}`);
  source.onopen = () => { lostAt = null; renderSoon(); };
  source.onerror = () => {
    lostAt ??= Date.now() / 1000;
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, REOPEN_MS);
    renderSoon();
  };
  source.addEventListener("runs", message => takeSummaries(JSON.parse(message.data)));
  source.addEventListener("lines", message => message.data.split("\n").forEach(takeLine));
}

function takeSummaries(list) {
  for (const summary of list) {
    summaries.set(summary.run, summary);
    ahead = summary.now - Date.now() / 1000;
  }
  if (!isChosen) showNewest();
  renderSoon();
}

function takeLine(line) {
  let event = null;
  try {
    event = JSON.parse(line);
  } catch { // a part of a line, which a kill has left
    return;
  }
  if (typeof event?.id !== "string") return;
  if (take(runOf(event.id.split(".")[0]), event)) renderSoon();
}

function runOf(id) {
  if (!runs.has(id)) runs.set(id, newRun(id));
  return runs.get(id);
}

// --- the choice, which the address keeps once somebody has made it: #run,run

let isChosen = false;
let newest = ""; // the run that started last

const named = () => location.hash.slice(1).split(",").filter(id => summaries.has(id));

// Until somebody chooses: the run that starts takes the place of one that no longer works.
function showNewest() {
  if (named().length) {
    choose(named());
    return;
  }
  const [first] = newestFirst();
  if (!first || first.run === newest) return;
  newest = first.run;
  const shown = summaries.get(chosen()[0]);
  if (!shown || stateOf(shown) !== "running") show([newest]);
}

function choose(ids) {
  isChosen = true;
  show(ids);
  if (colours.size) history.replaceState(null, "", `#${chosen().join(",")}`);
}

function show(ids) {
  for (const id of chosen()) if (!ids.includes(id)) colours.delete(id);
  for (const id of ids.slice(0, COLOURS)) {
    if (colours.has(id)) continue;
    const used = new Set(colours.values());
    colours.set(id, [...Array(COLOURS).keys()].find(colour => !used.has(colour)));
  }
  if (!colours.size) return;
  connect();
  renderSoon();
}

function tick(id, isTicked) {
  const rest = chosen().filter(other => other !== id);
  if (isTicked || !rest.length) choose([...rest, id]); // one run at least stays
  else choose(rest);
  renderSoon();
}

// By their last start: a run that goes on is newer than one that began meanwhile.
const newestFirst = () => [...summaries.values()].sort((a, b) => b.started - a.started);

// --- what is shown

let isDue = false;
function renderSoon() {
  if (isDue) return;
  isDue = true;
  setTimeout(() => { isDue = false; render(); }, 50); // and not at a frame: hidden tabs have none
}

// "running", "ended", "failed", "stopped", or "silent" after three times the usual interval.
function stateOf(summary) {
  if (summary.state === "failed" && isStop(summary.error)) return "stopped";
  const isSilent = now() - summary.last > 3 * summary.usual_s;
  return summary.state === "running" && isSilent ? "silent" : summary.state;
}

// The best accuracy so far while a run trains; then, or by another metric, that of its submission.
function figureOf({ state, metric, score: scored, best }) {
  const isTraining = state === "running" && (metric === "accuracy" || scored === null);
  return isTraining ? best ?? scored : scored ?? best;
}

// The run's name, with the time it began where another has the same name.
function labelOf(summary) {
  const isShared = [...summaries.values()].some(
    other => other.run !== summary.run && other.name === summary.name,
  );
  const name = summary.name || summary.run;
  return isShared ? `${name} (${clockTime(summary.began, now())})` : name;
}

function render() {
  const list = newestFirst();
  showRuns(list.map(summary => ({
    run: summary.run,
    label: labelOf(summary),
    state: stateOf(summary),
    score: score(figureOf(summary)),
    ago: `${duration(now() - summary.last)} ago`,
    begun: `began ${clockTime(summary.began, now())}`,
    colour: colours.get(summary.run) ?? null,
    isFirst: summary.run === chosen()[0],
  })), colours.size === COLOURS, id => choose([id]), tick);
  showText("connection", lostWords());
  part("empty").hidden = list.length > 0 || lostAt !== null;
  const summary = summaries.get(chosen()[0]);
  part("run").hidden = !summary;
  if (!summary) return;
  const run = runOf(summary.run);
  renderHead(run, summary);
  const isAlone = colours.size < 2 && run.networks.size > 1; // networks can be shown and hidden
  showPlan(run, network => (isAlone ? colourOf(run, network) : undefined), network => {
    toggle(run, network);
    renderSoon();
  });
  showCurves([...colours].map(
    ([id, colour]) => ({ run: runOf(id), label: labelOf(summaries.get(id)), colour }),
  ));
  showDecided(run);
  showPictures(run);
  showSettings(run);
}

function lostWords() {
  if (lostAt === null) return "";
  const shown = chosen().map(id => summaries.get(id).state);
  const isOver = shown.length && !shown.includes("running");
  const words = isOver ? "nothing was to come any more" : "this is what had come by then";
  return `No connection to the server since ${clockTime(lostAt, lostAt)}: ${words}. Trying again.`;
}

function renderHead(run, summary) {
  const state = stateOf(summary);
  const label = labelOf(summary);
  const { began, last } = summary;
  showHead(run, label, state, { now: now(), lasted: last - began, elapsed: now() - last });
  const figure = run.end?.score ?? bestOf(run)?.value ?? run.submission?.score;
  const network = run.networks.get(currentNetwork(run));
  const { done, planned } = network ? progressOf(network) : { done: 0, planned: 0 };
  const place = network?.rows.length && state === "running"
    && `epoch ${done}${planned ? `/${planned}` : ""}`;
  document.title = [place || state, figure?.toFixed(2), label].filter(Boolean).join(" · ");
  const news = lostAt === null ? `${label}: ${state}` : "connection lost";
  if (announced && announced !== news) setText(part("announcement"), news);
  announced = news;
}

// --- the start

function explainHow() {
  const address = location.href.replace(/#.*/, "").replace(/\/$/, "");
  setText(part("how"), [
    `make run SET="monitor_url=${address}"`, "",
    "# or from a script of your own with Keras",
    `keras.callbacks.RemoteMonitor(root="${address}")`,
  ].join("\n"));
}

explainHow();
part("runs-part").open = matchMedia("(min-width: 1000px)").matches;
document.querySelector("dialog").onclick = event => {
  if (event.target === event.currentTarget) event.currentTarget.close();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCurves);
addEventListener("hashchange", () => choose(named().length ? named() : chosen()));
setInterval(renderSoon, 1000); // ages, time left, silence
connect();
