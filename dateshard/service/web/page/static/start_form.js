// The form that starts a run: the fields of a start with their defaults, as the server tells them.

import { call } from "./api.js";
import { element, setText } from "./elements.js";

const NUMBERS = ["dropout_rate", "epochs", "batch_size", "learning_rate", "early_stopping_patience", "min_delta", "devices"];
const SCHEDULED = { step_size: "Epochs a step", gamma: "Factor of a step", patience: "Epochs without a gain", factor: "Factor", T_max: "Epochs of half a wave", eta_min: "Lowest rate" };

export class StartForm {
  // started(task) is called once a run is queued.
  constructor(dialog, started) {
    Object.assign(this, { dialog, started, form: dialog.querySelector("form"), choices: null });
    this.fields = this.form.elements;
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    dialog.querySelector(".cancel").addEventListener("click", () => dialog.close());
    this.fields.dataset.addEventListener("change", () => this.showColumns());
    this.fields.learning_rate_scheduler.addEventListener("change", () => this.showScheduled());
  }

  async open() {
    this.key = newKey();
    this.forgive();
    if (!this.dialog.open) this.dialog.showModal();
    try {
      const first = this.choices === null;
      this.choices = await call("GET", "/choices");
      this.fill(first);
    } catch (error) {
      setText(this.form.querySelector(".refused"), error.message);
    }
    this.fields.name.focus();
  }

  fill(first) {
    const { datasets, models, precisions, schedulers, defaults } = this.choices;
    const chosen = this.fields.dataset.value;
    const options = datasets.map(({ name, problem, dates, layout }) => element("option", { value: name, disabled: problem !== "", text: problem ? `${name}: ${problem}` : layout === "table" ? `${name} (rows)` : `${name} (${dates} dates)` }));
    this.fields.dataset.replaceChildren(...options);
    this.fields.dataset.value = chosen || (datasets.find((dataset) => dataset.default) ?? datasets[0])?.name || "";
    if (!datasets.length) setText(this.form.querySelector(".refused"), "No dataset is prepared yet: run dateshard preprocess first.");
    if (first) {
      this.fields.model_type.replaceChildren(...models.map((name) => element("option", { value: name, text: name })));
      this.fields.learning_rate_scheduler.replaceChildren(...Object.keys(schedulers).map((name) => element("option", { value: name, text: name })));
      this.fields.precision.replaceChildren(...precisions.map((name) => element("option", { value: name, text: name })));
      for (const name of [...NUMBERS, "model_type", "precision", "learning_rate_scheduler"]) this.fields[name].value = defaults[name];
      this.fields.hidden_units.value = defaults.hidden_units.join(", ");
    }
    this.showColumns();
    this.showScheduled();
  }

  dataset() {
    return this.choices?.datasets.find((dataset) => dataset.name === this.fields.dataset.value);
  }

  showColumns() {
    const features = this.dataset()?.features ?? [];
    const boxes = features.map((name) => element("label", { className: "box" }, element("input", { type: "checkbox", name: "feature_columns", value: name }), name));
    this.form.querySelector(".columns").replaceChildren(...boxes);
    const target = element("option", { value: "", text: this.dataset()?.default ? "as the server is set up, else all" : "all" });
    this.fields.target_column.replaceChildren(target, ...features.map((name) => element("option", { value: name, text: name })));
  }

  showScheduled() {
    const own = this.choices?.schedulers[this.fields.learning_rate_scheduler.value] ?? {};
    this.form.querySelector(".scheduled").replaceChildren(...Object.entries(own).map(([name, value]) =>
      element("label", { className: "field", text: SCHEDULED[name] ?? name }, element("input", { type: "number", step: "any", name, value }))));
  }

  body() {
    const body = { name: this.fields.name.value, dataset: this.fields.dataset.value, model_type: this.fields.model_type.value, precision: this.fields.precision.value, learning_rate_scheduler: this.fields.learning_rate_scheduler.value };
    const own = Object.keys(this.choices?.schedulers[body.learning_rate_scheduler] ?? {});
    for (const name of [...NUMBERS, ...own]) if (this.fields[name].value !== "") body[name] = Number(this.fields[name].value);
    body.hidden_units = this.fields.hidden_units.value.split(/[\s,]+/).filter(Boolean).map(Number);
    const columns = [...this.form.querySelectorAll("[name=feature_columns]:checked")].map((box) => box.value);
    if (columns.length) body.feature_columns = columns;
    for (const name of ["target_column", "output_path"]) if (this.fields[name].value) body[name] = this.fields[name].value;
    return body;
  }

  async send() {
    this.forgive();
    const body = this.body(), asked = JSON.stringify(body);
    if (asked !== this.asked) this.key = newKey(); // another body is another run; the same one, sent twice, is not
    this.asked = asked;
    const button = this.form.querySelector("[type=submit]");
    button.disabled = true;
    try {
      const { task_id: task } = await call("POST", "/start", { body, headers: { "Idempotency-Key": this.key } });
      this.asked = undefined;
      this.fields.name.value = "";
      this.dialog.close();
      this.started(task);
    } catch (error) {
      this.blame(error);
    } finally {
      button.disabled = false;
    }
  }

  forgive() {
    setText(this.form.querySelector(".refused"), "");
    this.form.querySelectorAll("[aria-invalid]").forEach((field) => field.removeAttribute("aria-invalid"));
    this.form.querySelectorAll(".fault:not(.refused)").forEach((fault) => fault.remove());
  }

  // Says at each field what the server refuses, and goes to the first one.
  blame(error) {
    let first = null;
    for (const { field, message } of error.errors ?? []) {
      const input = this.form.querySelector(`[name="${CSS.escape(field.replace(/[[.].*/, ""))}"]`);
      if (!input) continue;
      input.setAttribute("aria-invalid", "true");
      const fault = element("span", { className: "fault", id: `fault-${field}`, text: message });
      input.setAttribute("aria-describedby", fault.id);
      (input.closest("label.box")?.parentElement ?? input).after(fault);
      first ??= input;
    }
    if (!first) setText(this.form.querySelector(".refused"), error.message);
    const folded = first?.closest("details");
    if (folded) folded.open = true;
    first?.focus();
  }
}

// crypto.randomUUID is for https and this very machine alone; a page may be served to others without it.
function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
