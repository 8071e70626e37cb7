// The loss of a run over its epochs: single batches faintly, the mean of each epoch, and its validation. Drawn by uPlot.

import { element, setText } from "./elements.js";
import { counted, figure } from "./figures.js";

const TALL = 300, NARROW_TALL = 220;
const DRAWN_MILLISECONDS = 200; // between two drawings, however fast events come
const POWERS = 20; // a loss that differs this much is drawn by powers from the start
const SERIES = [
  { name: "batches", label: "single batches", colour: "--faint" },
  { name: "train", label: "training", colour: "--a" },
  { name: "val", label: "validation", colour: "--b" },
];

export class LossChart {
  constructor(name) {
    this.points = new Map(); // epoch, or where in it a batch ended -> [batch, train, validation]
    this.logarithmic = null; // null: as the losses ask for
    this.box = element("div", { className: "plot", tabIndex: 0, role: "img" });
    this.told = element("output", { className: "told soft" });
    this.switch = element("input", { type: "checkbox", on: { change: () => { this.logarithmic = this.switch.checked; this.rebuild(); } } });
    this.empty = element("p", { className: "soft empty", text: "No batch was told yet." });
    const legend = SERIES.map(({ name: css, label }) => element("span", { className: "key-of" }, element("span", { className: `stroke ${css}` }), label));
    this.node = element("figure", { className: "loss" },
      element("figcaption", {}, element("b", { text: "Loss" }), ...legend, element("label", { className: "switch" }, this.switch, "logarithmic")),
      this.empty, this.box, this.told);
    this.name = name;
    this.box.addEventListener("keydown", (event) => this.step(event));
    this.sized = new ResizeObserver(() => this.resize());
    this.sized.observe(this.box);
    this.recoloured = () => this.rebuild();
    addEventListener("theme", this.recoloured);
  }

  close() {
    this.sized.disconnect();
    removeEventListener("theme", this.recoloured);
    clearTimeout(this.timer);
    this.plot?.destroy();
  }

  hear(event) {
    if (event.type === "batch" && event.num_batches) this.add(event.epoch - 1 + (event.batch + 1) / event.num_batches, 0, event.loss);
    else if (event.type === "progress") {
      const { epoch, train_loss: train, val_loss: val } = event.progress.latest_metrics;
      this.add(epoch, 1, train);
      this.add(epoch, 2, val);
    } else return;
    this.timer ??= setTimeout(() => { this.timer = undefined; this.draw(); }, DRAWN_MILLISECONDS);
  }

  add(place, series, value) {
    if (value === null || value === undefined) return;
    const point = this.points.get(place) ?? [null, null, null];
    point[series] = value;
    this.points.set(place, point);
  }

  data() {
    const ends = new Set([0, 1, ...this.points.keys()]); // from the beginning on, and at least one epoch wide
    const places = [...ends].sort((one, other) => one - other);
    const drawn = (value) => (value !== null && (!this.powers || value > 0) ? value : null);
    return [places, ...SERIES.map((_, k) => places.map((place) => drawn(this.points.get(place)?.[k] ?? null)))];
  }

  draw() {
    const wanted = this.logarithmic ?? this.spreads();
    if (!this.plot || wanted !== this.powers) return this.rebuild();
    this.plot.setData(this.data());
    this.describe();
  }

  spreads() {
    let low = Infinity, high = -Infinity;
    for (const point of this.points.values()) for (const value of point) if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
    return low > 0 && high / low > POWERS;
  }

  rebuild() {
    const width = this.box.clientWidth;
    if (!this.points.size || !width) return;
    this.plot?.destroy();
    this.empty.hidden = true;
    this.powers = this.logarithmic ?? this.spreads();
    this.switch.checked = this.powers;
    const colour = (name) => colourOf(this.box, name);
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    this.plot = new uPlot({
      width, height: this.height(), legend: { show: false }, padding: [10, 12, 0, 0],
      cursor: { drag: { x: true, y: false }, points: { size: 7 } },
      scales: { x: { time: false }, y: { distr: this.powers ? 3 : 1 } },
      axes: [
        { ...axis, label: "epoch", labelFont: "12px system-ui, sans-serif", labelSize: 20, size: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
        { ...axis, size: 58, values: (_, marks) => marks.map((mark) => (mark === null ? "" : figure(mark, 3))) },
      ],
      series: [{}, ...SERIES.map(({ label, colour: name }, k) => ({
        label, stroke: colour(name), width: k ? 2 : 1, spanGaps: true, alpha: k ? 1 : 0.55,
        points: k ? { show: this.dots(), size: 5, fill: colour(name) } : { show: false },
      }))],
      hooks: { setCursor: [() => this.tell()] },
    }, this.data(), this.box);
    this.describe();
  }

  // Epochs are dotted while they are few.
  dots() {
    return (plot, series) => plot.data[series].reduce((count, value) => count + (value !== null), 0) <= 60;
  }

  height() {
    return innerWidth < 600 ? NARROW_TALL : TALL;
  }

  resize() {
    if (!this.plot) this.rebuild();
    else if (this.plot.width !== this.box.clientWidth && this.box.clientWidth) this.plot.setSize({ width: this.box.clientWidth, height: this.height() });
  }

  tell() {
    const index = this.plot?.cursor.idx;
    if (index === null || index === undefined) return setText(this.told, this.summary ?? "");
    const place = this.plot.data[0][index];
    const words = SERIES.map(({ label }, k) => [k ? label : "batch", this.plot.data[k + 1][index]]).filter(([, value]) => value !== null && value !== undefined);
    setText(this.told, `epoch ${figure(place)}: ${words.map(([label, value]) => `${label} ${figure(value)}`).join(", ")}`);
  }

  // With the arrow keys from epoch to epoch.
  step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!by || !this.plot) return;
    event.preventDefault();
    const places = this.plot.data[0];
    const epochs = places.map((place, k) => [place, k]).filter(([place]) => this.points.get(place)?.[1] !== undefined && Number.isInteger(place)).map(([, k]) => k);
    if (!epochs.length) return;
    const now = epochs.indexOf(this.plot.cursor.idx ?? epochs.at(-1));
    const next = epochs[Math.min(Math.max((now < 0 ? epochs.length : now) + by, 0), epochs.length - 1)];
    this.plot.setCursor({ left: this.plot.valToPos(places[next], "x"), top: 10 });
  }

  describe() {
    let last = null;
    for (const [place, point] of this.points) if (point[1] !== null && place >= (last?.place ?? 0)) last = { place, train: point[1], val: point[2] };
    this.summary = last ? `after ${counted(last.place, "epoch")}: training ${figure(last.train)}${last.val === null ? "" : `, validation ${figure(last.val)}`}` : "the first epoch has not ended";
    this.box.setAttribute("aria-label", `Loss of ${this.name}: ${this.summary}`);
    this.tell();
  }
}

// What a colour of the style is now: a canvas knows no variables.
function colourOf(node, name) {
  const probe = element("span", { hidden: true });
  probe.style.color = `var(${name})`;
  node.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}
