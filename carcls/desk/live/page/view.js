// What stands on the page besides the curves. Everything is text: what a run is called, or says, is
// never read as HTML. Elements stay while what they show stays, so that focus and pictures do, too.

import { bestEpoch, bestOf, currentNetwork, progressOf, sizesOf, stateOf } from "./model.js";
import {
  capital, clockTime, count, duration, isStop, metricName, nowLine, percent, score, short, whyOver,
} from "./words.js";

export const part = id => document.getElementById(id);

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Shows an element with this text; hides it where there is none.
export function showText(id, text) {
  setText(part(id), text);
  part(id).hidden = !text;
}

function make(tag, props = {}, ...children) {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
}

// Keeps one child an item, known by its key: makes what is new, updates all, drops what has gone.
function keep(parent, items, keyOf, create, update = () => {}) {
  const known = new Map([...parent.children].map(child => [child.dataset.key, child]));
  const children = items.map(item => {
    const key = keyOf(item);
    const child = known.get(key) ?? create(item);
    child.dataset.key = key;
    update(child, item);
    return child;
  });
  const isSame = children.length === parent.children.length
    && children.every((child, n) => child === parent.children[n]);
  if (!isSame) parent.replaceChildren(...children);
}

function setColour(element, colour) {
  if (colour === null) delete element.dataset.colour;
  else element.dataset.colour = colour;
}

// runs: [{run, label, state, score, ago, begun, isFirst, colour (0 to 7, or null)}]
// isFull: no more can be ticked
export function showRuns(runs, isFull, onlyThis, tick) {
  const create = ({ run }) => {
    const box = make("input", { type: "checkbox", onchange: () => tick(run, box.checked) });
    const name = make("button", { type: "button", onclick: () => onlyThis(run) });
    const line = make("p", {}, make("span"), " · ", make("span"), " · ", make("span"));
    return make("li", {}, box, name, line);
  };
  keep(part("runs"), runs, ({ run }) => run, create, (item, about) => {
    const [box, name, line] = item.children;
    setColour(item, about.colour);
    box.checked = about.colour !== null;
    box.disabled = isFull && !box.checked;
    box.setAttribute("aria-label", `Overlay ${about.label}`);
    setText(name, about.label);
    name.title = about.begun;
    name.setAttribute("aria-current", about.isFirst);
    line.firstChild.className = about.state;
    [about.state, about.score, about.ago].forEach((text, n) => setText(line.children[n], text));
  });
  setText(part("count"), String(runs.length));
  part("runs-part").hidden = !runs.length;
}

const isAtWork = state => state === "running" || state === "silent";

// The run's name, state and figures. times: {now: unix time; in seconds: lasted, from its first to
// its last event, and elapsed, since then}
export function showHead(run, label, state, times) {
  showText("error", whyOver(run.error));
  part("error").className = isStop(run.error) ? "warning" : "failure";
  setText(part("name"), label);
  const word = state === "silent" ? "running" : state;
  setText(part("state"), word);
  part("state").className = `badge ${word}`;
  const since = duration(times.elapsed);
  showText("silence", state === "silent" ? `nothing has come for ${since}` : "");
  const tiles = [scoreTile(run), bestTile(run), timeTile(run, state, times), speedTile(run),
    photosTile(run)].filter(Boolean);
  const create = () => make("div", {}, make("dt"), make("dd", { className: "value" }), make("dd"));
  keep(part("tiles"), tiles, tile => tile.key, create, (item, tile) => {
    [tile.label, tile.value, tile.note].forEach((text, n) => setText(item.children[n], text));
  });
  showNow(run, state);
  showText("tuned", run.tuned && `Search at small sizes: ${run.tuned}`);
}

function scoreTile(run) {
  if (run.end) {
    const { metric, score: value, interval, trueScore, madeBy } = run.end;
    const notes = [interval.length === 2 && `95 % interval ${interval.map(score).join("–")}`,
      trueScore !== null && `true ${score(trueScore)}`, madeBy].filter(Boolean);
    const label = `Validation ${metricName(metric)}`;
    return { key: "score", label, value: score(value), note: notes.join("; ") };
  }
  if (!run.submission) {
    const isExpected = [...run.networks.values()].some(network => network.plan.length);
    const tile = { key: "score", label: "Submission", value: "–", note: "none so far" };
    return isExpected ? tile : null; // others than our runs make none
  }
  const { metric, score: value, early, madeBy } = run.submission;
  const label = `Submission: ${metricName(metric)}`;
  const note = `${early ? "so far, " : ""}by ${madeBy}`;
  return { key: "score", label, value: score(value), note };
}

function bestTile(run) {
  const best = bestOf(run);
  const key = "best";
  const none = run.end ? "no validated epoch has come" : "nothing is validated so far";
  if (!best) return { key, label: "Best epoch", value: "–", note: none };
  const { row, network, measure, value } = best;
  // A run chooses its best epoch anew at each size.
  const label = `Best epoch${row.height ? ` at ${row.height}×${row.width}` : ""}`;
  const of = run.networks.size > 1 ? ` of ${network.name}` : "";
  const note = `validation ${metricName(measure)} of epoch ${row.x}${of}`;
  return { key, label, value: score(value), note };
}

function timeTile(run, state, { now, lasted, elapsed }) {
  const key = "time";
  if (!isAtWork(state)) {
    const note = state === "ended" ? "from its first event to its last" : "until it broke off";
    return { key, label: "Time", value: duration(lasted), note };
  }
  const network = run.networks.get(currentNetwork(run));
  // Of a training that is over nothing is left, but of the run there may be.
  const left = network && stateOf(run, network) === "running" ? run.latest?.left_s : undefined;
  const { endsAt = null } = run.about;
  const name = run.networks.size > 1 && currentNetwork(run);
  const following = [...run.networks.values()].filter(
    other => stateOf(run, other) === "to come",
  ).length;
  const notes = [
    left !== undefined && `of ${name || "training"}`,
    left !== undefined && following && `then ${count(following, "more network")}`,
    endsAt !== null && `must end by ${clockTime(endsAt, now)}`,
  ].filter(Boolean);
  if (left === undefined && !notes.length) return null;
  if (left === undefined) return { key, label: "Time left", value: "–", note: notes.join("; ") };
  const isSilent = state === "silent";
  const label = isSilent ? "Time left, last heard" : "Time left";
  const value = duration(isSilent ? left : left - elapsed);
  return { key, label, value, note: notes.join("; ") };
}

function speedTile(run) {
  const rows = [...run.networks.values()].flatMap(network => network.rows.slice(-1));
  const last = run.latest?.images_per_s ? run.latest : rows.at(-1);
  if (!last?.images_per_s) return null;
  const waiting = last.waiting ?? rows.at(-1)?.waiting;
  const note = waiting === undefined ? "" : `${percent(waiting)} of the time waiting for input`;
  return { key: "speed", label: "Images/s", value: short(last.images_per_s), note };
}

function photosTile(run) {
  const [train, validation, test] = run.photos;
  if (train === null) return null;
  const note = `to train on, ${short(validation)} to validate, ${short(test)} to predict`;
  return { key: "photos", label: "Photos", value: short(train), note };
}

function showNow(run, state) {
  const [bar, line] = part("now").children;
  const network = run.networks.get(currentNetwork(run));
  part("now").hidden = !isAtWork(state) || !run.latest;
  if (part("now").hidden) return;
  setText(line, nowLine(run.latest, network?.plan ?? []));
  const { done: epochs, planned } = network ? progressOf(network) : { done: 0, planned: 0 };
  bar.hidden = !planned || run.latest.kind === "phase";
  if (bar.hidden) return;
  const { kind, done, steps, what } = run.latest;
  const isTraining = kind === "epoch" || what === "train"; // and not votes, say
  const share = done && steps ? done / steps : 0;
  bar.max = isTraining ? planned : 1;
  bar.value = isTraining ? epochs + share : share;
}

// colourOf: network → 0 to 7 where it is drawn, null where hidden; undefined where none is chosen
export function showPlan(run, colourOf, toggle) {
  const create = network => {
    const box = make("input", { type: "checkbox", onchange: () => toggle(network) });
    const label = make("label", { title: "Show its curves" }, box, make("b"));
    return make("li", {}, make("h3", {}, label, make("span")), make("p"), make("progress"));
  };
  const networks = [...run.networks.values()];
  keep(part("plan"), networks, network => `${run.id} ${network.name}`, create, (item, network) => {
    const [heading, line, bar] = item.children;
    const [label, state] = heading.children;
    const colour = colourOf(network);
    const { done, planned } = progressOf(network);
    setColour(item, colour ?? null);
    label.firstChild.hidden = colour === undefined;
    label.firstChild.checked = colour !== null;
    setText(label.lastChild, network.name || "the network");
    state.className = stateOf(run, network).replaceAll(" ", "-");
    setText(state, stateOf(run, network));
    setText(line, planLine(run, network, planned, done));
    bar.hidden = !planned;
    bar.max = Math.max(planned, 1);
    bar.value = done;
    bar.setAttribute("aria-label", `Epochs of ${network.name}`);
  });
}

function planLine(run, network, planned, done) {
  const sizes = sizesOf(network).map(({ from, to, label }) => `${to - from} at ${label}`);
  const found = bestEpoch(run, network);
  const best = found && `best ${score(found.value)} at epoch ${found.row.x}`;
  const stopped = network.stopped !== null && "stopped early";
  const epochs = planned ? `${done} of ${count(planned, "epoch")}` : count(done, "epoch");
  const parts = [sizes.length ? `${epochs}: ${sizes.join(", ")}` : epochs, best, stopped];
  return parts.filter(Boolean).join(" · ");
}

const SUBJECTS = new Map([["views", "Test-time views"], ["pseudo", "Pseudo-labels"]]);

export function showDecided(run) {
  const verdicts = [...run.verdicts.values()];
  part("verdicts-part").hidden = !verdicts.length;
  keep(part("verdicts"), verdicts, verdict => verdict.id, verdict => {
    const word = verdict.accepted ? "accepted" : "refused";
    const subject = SUBJECTS.get(verdict.of) ?? capital(verdict.of);
    const isOfOne = verdict.network && run.networks.size > 1;
    const title = `${subject}${isOfOne ? ` of ${verdict.network}` : ""}`;
    const heading = make("h3", {}, title, make("span", { className: word, textContent: word }));
    const reason = verdict.reason.replace(`${word}: `, ""); // where it says so, too
    return make("li", { className: word }, heading, make("p", { textContent: reason }));
  });
  const warnings = run.end?.warnings ?? [];
  const create = text => make("li", { textContent: `Warning: ${text}` });
  keep(part("warnings"), [...new Set(warnings)], text => text, create);
}

export function showPictures(run) {
  const pictures = [...run.pictures.values()];
  part("pictures-part").hidden = !pictures.length;
  keep(part("pictures"), pictures, picture => picture.id, picture => {
    // With the event's id, so that a picture that is drawn anew is fetched anew.
    const name = encodeURIComponent(picture.name.toWellFormed()); // half a character is none
    const src = `pictures/${run.id}/${name}?${picture.id}`;
    const alt = picture.caption || picture.name;
    const image = make("img", { loading: "lazy", src, alt });
    const button = make("button", { type: "button", onclick: () => enlarge(image) }, image);
    button.setAttribute("aria-label", `Open large: ${picture.name}`);
    const caption = make("figcaption", { textContent: alt });
    image.onerror = () => button.replaceWith(make("p", { textContent: "(could not be loaded)" }));
    return make("figure", {}, button, caption);
  });
}

function enlarge(image) {
  const large = document.querySelector("dialog");
  large.querySelector("img")?.remove();
  const width = Math.max(image.naturalWidth, Math.min(2 * image.naturalWidth, innerWidth - 60));
  large.append(make("img", { src: image.src, alt: image.alt, width }));
  large.showModal();
}

export function showSettings(run) {
  const { settings = {}, machine = [], source = "" } = run.about;
  part("settings-part").hidden = !Object.keys(settings).length && !machine.length;
  setText(part("machine"), machine[0] ?? "");
  const lines = [...machine, source && `source ${source}`, JSON.stringify(settings, null, 2)];
  setText(part("settings"), lines.filter(Boolean).join("\n"));
}
