// How numbers, times and states are said.

const METRICS = new Map([["log_loss", "log-loss"], ["f1_macro", "macro F1"], ["auc", "AUC"]]);

export const metricName = name => METRICS.get(name) ?? name.replaceAll("_", " ");

export const capital = text => text.slice(0, 1).toUpperCase() + text.slice(1);

export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

export const score = value => (value === null || value === undefined ? "–" : value.toFixed(4));

// Four digits that count, without an exponent where one can do without.
export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-4) return value.toExponential(1).replace("-", "−");
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

export function percent(share) {
  if (share === null || share === undefined) return "–";
  return `${Number((100 * share).toFixed(share < 0.1 ? 1 : 0))} %`;
}

// Of errors that are none: somebody ended the run.
const STOP = /^(Stopped|KeyboardInterrupt):? *(stopped )?/;

export const isStop = error => STOP.test(error);

// Why a run is over: "Failed: …" or "Stopped: …".
export function whyOver(error) {
  if (!error) return "";
  return isStop(error) ? `Stopped: ${error.replace(STOP, "")}` : `Failed: ${error}`;
}

// Seconds as people say them: "45 s", "12 min", "3 h 10 min", "2 days".
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.round(hours / 24)} days`;
}

// A unix time as the time of day, with the date where that is another day.
export function clockTime(at, now) {
  const [then, today] = [new Date(at * 1000), new Date(now * 1000)];
  const digits = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  const time = then.toLocaleTimeString([], digits);
  if (then.toDateString() === today.toDateString()) return time;
  return `${then.toLocaleDateString([], { day: "numeric", month: "short" })}, ${time}`;
}

// What is done now: "member a · stage 2 of 2 (96×128) · epoch 3 of 8 · step 33 of 66 · loss 0.71".
export function nowLine(latest, plan) {
  if (!latest) return "";
  if (latest.kind === "phase") return `Now: ${latest.name}`;
  const { network, stage, epoch, what } = latest;
  const stages = Math.max(latest.stages ?? 1, plan.length);
  const size = plan[stage - 1] ?? latest;
  const epochs = latest.epochs ?? size.epochs;
  const done = latest.kind === "epoch" ? " done" : "";
  const pixels = size.height ? ` (${size.height}×${size.width})` : "";
  const parts = [
    network,
    epoch !== undefined && stages > 1 && `stage ${stage} of ${stages}${pixels}`,
    epoch !== undefined && `epoch ${epoch}${epochs ? ` of ${epochs}` : ""}${done}`,
    what === "train" ? "" : what,
    latest.done !== undefined && `step ${latest.done} of ${latest.steps ?? "?"}`,
    latest.loss !== undefined && `loss ${short(latest.loss)}`,
  ];
  return parts.filter(Boolean).join(" · ");
}
