// All runs, newest first: each with its state, how far it is, its curve so far, and what it may be asked for.

import { call, segment } from "./api.js";
import { element, setText } from "./elements.js";
import { AT_REST, figure, STATES } from "./figures.js";
import { Moves } from "./moves.js";

const WIDE = 120, TALL = 30;
const CURVES = 30; // newest runs whose curve is fetched

export class RunList {
  constructor(node, moved) {
    Object.assign(this, { node, moved, entries: new Map() });
  }

  update(rows, chosen) {
    const known = new Set(rows.map((row) => row.task_id));
    for (const [task, entry] of this.entries) {
      if (known.has(task)) continue;
      entry.node.remove();
      this.entries.delete(task);
    }
    rows.forEach((row, place) => {
      let entry = this.entries.get(row.task_id);
      if (!entry) this.entries.set(row.task_id, (entry = new RunEntry(this.moved)));
      entry.update(row, row.task_id === chosen, place < CURVES);
      if (this.node.children[place] !== entry.node) this.node.insertBefore(entry.node, this.node.children[place] ?? null);
    });
  }
}

class RunEntry {
  constructor(moved) {
    this.link = element("a", { className: "name" });
    this.badge = element("span", { className: "badge" });
    this.facts = element("p", { className: "facts" });
    this.progress = element("progress");
    this.curve = document.importNode(document.getElementById("spark").content.firstElementChild, true);
    this.path = this.curve.firstElementChild;
    this.curve.setAttribute("viewBox", `0 0 ${WIDE} ${TALL}`);
    this.moves = new Moves(["pause", "resume", "stop"], moved);
    this.epoch = -1;
    this.node = element("li", { className: "run" },
      element("div", { className: "top" }, this.link, this.badge),
      this.progress,
      element("div", { className: "bottom" }, this.facts, this.curve),
      this.moves.node);
  }

  update(row, chosen, drawn) {
    setText(this.link, row.name);
    this.link.href = `#/runs/${segment(row.task_id)}`;
    if (chosen) this.link.setAttribute("aria-current", "true");
    else this.link.removeAttribute("aria-current");
    this.node.classList.toggle("chosen", chosen);
    showState(this.badge, row);
    this.progress.max = row.total_epochs;
    this.progress.value = row.current_epoch;
    this.progress.setAttribute("aria-label", `Epochs of ${row.name}`);
    const best = row.best_metrics.loss === null ? "" : ` · best ${figure(row.best_metrics.loss)}`;
    setText(this.facts, `${row.dataset} · ${row.model_type} · epoch ${row.current_epoch} of ${row.total_epochs}${best}`);
    this.moves.update(row);
    if (drawn && row.current_epoch !== this.epoch) this.draw(row);
  }

  async draw(row) {
    this.epoch = row.current_epoch;
    const { history } = await call("GET", `/history/${segment(row.task_id)}`).catch(() => ({ history: [] }));
    const losses = history.map((epoch) => epoch.val_loss ?? epoch.train_loss).filter((loss) => loss !== null);
    this.path.setAttribute("d", spark(losses));
  }
}

export function showState(badge, row) {
  const [sign, word] = STATES[row.training_state] ?? ["?", row.training_state];
  const place = row.position ? `, place ${row.position}` : "";
  setText(badge, `${sign} ${word}${place}`);
  badge.className = `badge ${AT_REST.includes(row.training_state) || row.training_state === "queued" ? "" : "live"} ${row.training_state}`;
}

function spark(values) {
  if (values.length < 2) return "";
  const low = Math.min(...values), width = Math.max(...values) - low || 1;
  return values.map((value, k) => {
    const x = 2 + (k / (values.length - 1)) * (WIDE - 4);
    const y = TALL - 3 - ((value - low) / width) * (TALL - 6);
    return `${k ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`;
  }).join("");
}
