// Curves by epoch, drawn by uPlot: photo sizes as bands behind them, the best epoch ringed, and a
// table of the values at the cursor below.

import uPlot from "./uplot.js";

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];

// curve: {label, colour (0 to 7), rows [{x, …}], best (the x of the best epoch) or null}
// line: {key (of a row), label, dashed}
export class Chart {
  // say: a value in the table; sayMark: at the axis
  constructor(place, title, lines, say, sayMark) {
    this.lines = lines;
    this.isSmall = lines.length < 2;
    this.height = this.isSmall ? 120 : 240;
    this.say = say;
    this.sayMark = sayMark;
    this.plot = null;
    this.made = this.drawn = ""; // which curves the plot was made for, and what it shows of them
    this.figure = document.createElement("figure");
    this.figure.className = "chart";
    const heading = document.createElement("h3");
    heading.textContent = title;
    this.frame = document.createElement("div");
    this.frame.setAttribute("role", "img");
    this.frame.setAttribute("aria-label", `${title} by epoch: the curves of the table below`);
    this.table = document.createElement("table");
    this.figure.append(heading, this.frame, this.table);
    place.append(this.figure);
    new ResizeObserver(() => this.resize()).observe(this.frame);
  }

  // bands: [{from, to, label}]; total: epochs that the axis has room for
  show(curves, bands, total) {
    this.curves = curves;
    this.bands = bands;
    this.total = Math.max(total, 1);
    const xs = new Set([1, this.total]);
    for (const curve of curves) for (const row of curve.rows) xs.add(row.x);
    this.xs = [...xs].sort((a, b) => a - b);
    const data = [this.xs];
    for (const curve of curves) {
      const rows = new Map(curve.rows.map(row => [row.x, row]));
      for (const line of this.lines) data.push(this.xs.map(x => rows.get(x)?.[line.key] ?? null));
    }
    const made = JSON.stringify(curves.map(curve => [curve.label, curve.colour]));
    const drawn = JSON.stringify([made, data, bands, curves.map(curve => curve.best)]);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    if (made === this.made) this.plot.setData(data);
    else this.make(data, made);
    this.read();
  }

  make(data, made) {
    this.plot?.destroy();
    this.made = made;
    const axis = { stroke: () => colour("--soft"), font: "12px system-ui, sans-serif" };
    const grid = { stroke: () => colour("--line"), width: 0.5 };
    const values = (_, marks) => marks.map(this.sayMark);
    this.plot = new uPlot({
      width: Math.max(this.frame.clientWidth, 100),
      height: this.height,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: false, y: false },
        sync: { key: "epoch" },
        move: (plot, left, top) => [toEpoch(plot, left), top],
      },
      scales: {
        x: { time: false, range: () => [0.5, this.total + 0.5] },
        // Rates and shares begin at zero; what is measured fills the height.
        y: this.isSmall ? { range: (_, least, most) => [0, 1.1 * most || 0.05] } : {},
      },
      axes: [
        { ...axis, incrs: WHOLE, grid: { show: false }, ticks: grid, size: 26, gap: 2 },
        { ...axis, grid, ticks: { show: false }, size: 50, values },
      ],
      series: [{}, ...this.curves.flatMap((curve, n) => this.lines.map(line => ({
        stroke: () => colour(`--curve-${curve.colour}`),
        width: line.dashed ? 1.5 : 2.5,
        dash: line.dashed ? [5, 4] : [],
        spanGaps: true,
        points: { show: () => this.curves[n].rows.length < 2, size: 6 },
      })))],
      hooks: {
        drawClear: [plot => this.drawBands(plot)],
        draw: [plot => this.drawBest(plot)],
        setCursor: [() => this.read()],
      },
    }, data, this.frame);
  }

  drawBands(plot) {
    const { ctx, bbox } = plot;
    const at = x => Math.round(plot.valToPos(x + 0.5, "x", true));
    ctx.save();
    ctx.textAlign = "left";
    ctx.textBaseline = "alphabetic";
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    this.bands.forEach(({ from, to, label }, number) => {
      const [left, right] = [at(from), at(to)];
      ctx.fillStyle = colour(number % 2 ? "--band-odd" : "--band-even");
      ctx.fillRect(left, bbox.top, right - left, bbox.height);
      ctx.fillStyle = colour("--soft");
      if (this.isSmall) return;
      const room = right - left - 8 * devicePixelRatio;
      if (ctx.measureText(label).width < room) {
        ctx.fillText(label, left + 5 * devicePixelRatio, bbox.top + 13 * devicePixelRatio);
      }
    });
    ctx.restore();
  }

  drawBest(plot) {
    const { ctx } = plot;
    ctx.save();
    ctx.setLineDash([]);
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.fillStyle = colour("--ground");
    for (const curve of this.curves) {
      const y = curve.rows.find(row => row.x === curve.best)?.[this.lines[0].key];
      if (y === undefined) continue;
      ctx.strokeStyle = colour(`--curve-${curve.colour}`);
      ctx.beginPath();
      const [left, top] = [plot.valToPos(curve.best, "x", true), plot.valToPos(y, "y", true)];
      ctx.arc(left, top, 5 * devicePixelRatio, 0, 2 * Math.PI);
      ctx.fill();
      ctx.stroke();
    }
    ctx.restore();
  }

  // Writes the table: values at the cursor, else the last ones.
  read() {
    if (!this.plot) return;
    const { idx } = this.plot.cursor;
    const x = idx === null || idx === undefined ? null : this.xs[idx];
    const lastX = Math.max(0, ...this.curves.map(curve => curve.rows.at(-1).x));
    const last = lastX ? `epoch ${lastX}, the last` : "no epoch so far";
    const head = row(["th", x === null ? last : `epoch ${x}`],
      ...this.lines.map(line => ["th", line.label, line.dashed ? "dashed" : "solid"]));
    const rows = this.curves.map(curve => {
      const values = x === null ? curve.rows.at(-1) : curve.rows.find(each => each.x === x);
      const cells = this.lines.map(line => ["td", this.say(values?.[line.key])]);
      const made = row(["th", curve.label, "swatch"], ...cells);
      made.dataset.colour = curve.colour;
      made.firstChild.title = curve.label; // which may be cut
      return made;
    });
    this.table.replaceChildren(...(this.isSmall ? [] : [head]), ...rows);
  }

  resize() {
    const width = this.frame.clientWidth;
    if (this.plot && width && width !== this.plot.width) {
      this.plot.setSize({ width, height: this.height });
    }
  }

  // After a change of the colour scheme.
  redraw() { this.plot?.redraw(); }

  remove() {
    this.plot?.destroy();
    this.figure.remove();
  }
}

// The place of the epoch that is nearest to a place on the x axis; outside the plot it is negative.
function toEpoch(plot, left) {
  return left < 0 ? left : plot.valToPos(plot.data[0][plot.posToIdx(left)], "x");
}

function row(...cells) {
  const made = document.createElement("tr");
  for (const [tag, text, className = ""] of cells) {
    const cell = document.createElement(tag);
    made.append(Object.assign(cell, { textContent: text, className }));
  }
  return made;
}
