// One run: its curves as they grow, its figures, checkpoints, log, settings and report.

import { call, segment } from "./api.js";
import { element, setText, table } from "./elements.js";
import { EventStream } from "./event_stream.js";
import { AT_REST, bytes, DASH, figure, moment, seconds } from "./figures.js";
import { LossChart } from "./loss_chart.js";
import { Moves } from "./moves.js";
import { ReportLink } from "./report_link.js";
import { showState } from "./run_list.js";

const MOST_LOG = 200_000; // letters of a log that are shown, the newest
const MOST_EPOCHS = 500; // rows of the table of epochs, the newest
const NEWS_MILLISECONDS = 500;
const TILES = ["epoch", "training loss", "validation loss", "best loss", "learning rate", "an epoch takes", "about left", "memory"];

export class RunDetail {
  // moved(error?) is called after a button; connected(up) when the line of events comes and goes.
  constructor(row, moved, connected) {
    this.task = row.task_id;
    this.epochs = [];
    this.memory = null;
    this.news = new Set();
    this.heading = element("h2", { tabIndex: -1 });
    this.badge = element("span", { className: "badge", role: "status" });
    this.facts = element("p", { className: "soft facts" });
    this.reason = element("p", { className: "reason", hidden: true });
    this.moves = new Moves(["pause", "resume", "stop", "delete"], moved);
    this.progress = element("progress");
    this.tiles = Object.fromEntries(TILES.map((name) => [name, element("b", { text: DASH })]));
    this.chart = new LossChart(row.name);
    this.report = new ReportLink("run", this.task, "report");
    this.checkpoints = this.fold("Checkpoints", () => this.showCheckpoints(), true);
    this.table = this.fold("Figures of every epoch", () => this.showEpochs());
    this.log = this.fold("Log", () => this.showLog());
    this.settings = this.fold("What was asked for", () => this.showSettings());
    this.node = element("article", { className: "card detail", "aria-label": "The chosen run" },
      element("header", {}, element("div", {}, this.heading, this.facts), this.badge),
      this.moves.node, this.reason, this.progress, // what comes and goes stands behind the buttons: they keep their place
      element("div", { className: "tiles" }, ...TILES.map((name) => element("div", {}, this.tiles[name], element("span", { text: name })))),
      this.chart.node, this.report.node,
      this.checkpoints.node, this.table.node, this.log.node, this.settings.node);
    this.stream = new EventStream(this.task, (event) => this.hear(event), connected);
    this.update(row);
  }

  close() {
    this.stream.close();
    this.chart.close();
    this.report.close();
    clearTimeout(this.timer);
    this.node.remove();
  }

  fold(title, shown, open = false) {
    const body = element("div");
    const node = element("details", { open }, element("summary", { text: title }), body);
    node.addEventListener("toggle", () => { if (node.open) shown(); });
    return { node, body };
  }

  update(row) {
    const before = this.row;
    this.row = row;
    setText(this.heading, row.name);
    setText(this.facts, `${row.task_id} · ${row.dataset} · ${row.model_type} · ${moment(row.created)}`);
    this.reason.hidden = !row.reason || row.training_state === "completed";
    setText(this.reason, row.reason);
    this.reason.classList.toggle("alarm", ["failed", "interrupted"].includes(row.training_state));
    showState(this.badge, row);
    this.moves.update(row);
    this.progress.max = row.total_epochs;
    this.progress.value = row.current_epoch;
    this.progress.setAttribute("aria-label", `Epochs of ${row.name}`);
    this.showTiles();
    if (AT_REST.includes(row.training_state)) {
      if (before && before.training_state !== row.training_state) { this.report.look(); this.refresh(); }
    } else this.stream.open();
  }

  hear(event) {
    this.chart.hear(event);
    if (event.type === "progress") this.epochs.push(event.progress.latest_metrics);
    if (event.type === "batch") this.memory = event.memory_bytes;
    this.news.add(event.type);
    this.timer ??= setTimeout(() => this.refresh(), NEWS_MILLISECONDS);
  }

  // Shows what has come; a stream that begins anew brings thousands of events at once.
  refresh() {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.showTiles();
    const rest = AT_REST.includes(this.row.training_state);
    if (this.checkpoints.node.open && (rest || this.news.has("checkpoint"))) this.showCheckpoints();
    if (this.table.node.open && this.news.has("progress")) this.showEpochs();
    if (this.log.node.open) this.showLog();
    this.news.clear();
  }

  showTiles() {
    const last = this.epochs.at(-1), { row } = this;
    const current = Math.max(row.current_epoch, last?.epoch ?? 0);
    const running = !AT_REST.includes(row.training_state) && row.training_state !== "queued";
    const figures = {
      "epoch": `${current} / ${row.total_epochs}`,
      "training loss": figure(last?.train_loss),
      "validation loss": figure(last?.val_loss),
      "best loss": figure(row.best_metrics.loss),
      "learning rate": figure(last?.learning_rate),
      "an epoch takes": seconds(last?.time_per_epoch),
      "about left": running && last ? seconds((row.total_epochs - current) * last.time_per_epoch) : DASH,
      "memory": running ? bytes(row.memory_bytes ?? this.memory) : DASH,
    };
    for (const [name, text] of Object.entries(figures)) setText(this.tiles[name], text);
    this.progress.value = current;
  }

  async showCheckpoints() {
    const { checkpoints } = await this.asked(`/checkpoints/${segment(this.task)}`, { checkpoints: [] });
    const rows = checkpoints.map((row) => [row.checkpoint, String(row.epoch), String(row.batch), bytes(row.bytes), moment(row.saved), row.best ? "best" : ""]);
    setText(this.checkpoints.node.firstChild, `Checkpoints (${rows.length})`);
    const shown = rows.length ? table("On disk, newest first", ["checkpoint", "epoch", "batch", "size", "saved", ""], rows, [1, 2, 3])
      : element("p", { className: "soft", text: "None yet." });
    renew(this.checkpoints.body, shown);
  }

  showEpochs() {
    const heads = ["epoch", "training", "validation", "accuracy", "val. accuracy", "learning rate", "seconds"];
    const rows = this.epochs.slice(-MOST_EPOCHS).reverse().map((row) => [String(row.epoch), ...[row.train_loss, row.val_loss, row.train_accuracy, row.val_accuracy, row.learning_rate, row.time_per_epoch].map((value) => figure(value))]);
    const shown = rows.length ? table("Newest first", heads, rows, [0, 1, 2, 3, 4, 5, 6]) : element("p", { className: "soft", text: "No epoch has ended yet." });
    renew(this.table.body, shown);
  }

  async showLog() {
    if (this.reading) return;
    this.reading = true;
    this.printed ??= element("pre", { tabIndex: 0, role: "log", "aria-label": "Log" });
    if (!this.printed.isConnected) this.log.body.replaceChildren(this.printed);
    const atEnd = this.printed.scrollTop + this.printed.clientHeight >= this.printed.scrollHeight - 4;
    let text = this.printed.textContent;
    for (;;) {
      const piece = await this.asked(`/logs/${segment(this.task)}?after=${this.read ?? 0}`, { text: "", next: this.read ?? 0 });
      if (piece.next === (this.read ?? 0)) break;
      this.read = piece.next;
      text = (text + piece.text).slice(-MOST_LOG);
    }
    setText(this.printed, text || "Nothing was printed yet.");
    if (atEnd) this.printed.scrollTop = this.printed.scrollHeight;
    this.reading = false;
  }

  async showSettings() {
    const { config } = await this.asked(`/jobs/${segment(this.task)}`, { config: {} });
    const rows = Object.entries(config).map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : String(value)]);
    this.settings.body.replaceChildren(table("With the defaults of what was left out", ["field", "value"], rows));
  }

  asked(path, otherwise) {
    return call("GET", path).catch(() => otherwise);
  }
}

// Puts new rows into a table that stands there, which stays scrolled and focused.
function renew(body, shown) {
  const [before, after] = [body.querySelector("tbody"), shown.querySelector("tbody")];
  if (before && after) before.replaceWith(after);
  else body.replaceChildren(shown);
}
