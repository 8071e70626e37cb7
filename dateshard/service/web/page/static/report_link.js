// A report: made on asking, then opened in a tab of its own with a ticket that is good once. No token is in the address.

import { call, segment } from "./api.js";
import { element, setText } from "./elements.js";

const ASKED_MILLISECONDS = 1500;
const WORDS = {
  none: "No report yet.",
  waiting: "The report waits for another one.",
  making: "The report is being made …",
  ready: "The report is up to date.",
  old: "The report is older than its data.",
};

export class ReportLink {
  constructor(kind, name, title) {
    this.path = `/reports/${kind}/${segment(name)}`;
    this.open = element("button", { type: "button", hidden: true, text: `Open ${title}`, on: { click: () => this.show() } });
    this.make = element("button", { type: "button", hidden: true, text: `Make ${title}`, on: { click: () => this.ask() } });
    this.told = element("span", { className: "soft", role: "status" });
    this.node = element("p", { className: "report" }, this.open, this.make, this.told);
    this.look();
  }

  close() {
    clearTimeout(this.timer);
    this.closed = true;
  }

  async look() {
    clearTimeout(this.timer);
    try {
      this.update(await call("GET", `${this.path}/state`));
    } catch (error) {
      setText(this.told, error.message);
    }
  }

  update({ state, reason }) {
    if (this.closed) return;
    const working = state === "waiting" || state === "making";
    this.open.hidden = state !== "ready" && state !== "old";
    this.make.hidden = working || state === "ready";
    setText(this.told, state === "failed" ? `The report could not be made: ${reason}` : WORDS[state]);
    if (working) this.timer = setTimeout(() => this.look(), ASKED_MILLISECONDS);
  }

  async ask() {
    try {
      this.update(await call("POST", this.path));
    } catch (error) {
      setText(this.told, error.message);
    }
  }

  async show() {
    try {
      const { path } = await call("POST", `${this.path}/ticket`);
      element("a", { href: path, target: "_blank", rel: "noopener noreferrer" }).click();
    } catch (error) {
      setText(this.told, error.message);
    }
  }
}
