// The buttons that a run has in its state: those that the server says it may be asked for, and no others.

import { call, segment } from "./api.js";
import { element } from "./elements.js";

const WORDS = { pause: "Pause", resume: "Resume", stop: "Stop", delete: "Remove" };

export class Moves {
  // moved(error?) is called once the server has answered.
  constructor(acts, moved) {
    this.node = element("div", { className: "moves" });
    this.moved = moved;
    this.buttons = Object.fromEntries(acts.map((act) => [act, this.button(act)]));
    this.node.append(...Object.values(this.buttons));
  }

  button(act) {
    return element("button", { type: "button", hidden: true, className: act, text: WORDS[act], on: { click: () => this.ask(act) } });
  }

  update(row) {
    this.row = row;
    for (const [act, button] of Object.entries(this.buttons)) {
      const allowed = row.moves.includes(act);
      if (!allowed && document.activeElement === button) this.leave(button);
      button.hidden = !allowed;
      button.setAttribute("aria-label", `${WORDS[act]} ${row.name}`);
    }
  }

  // A button that goes away hands the keyboard to the one that comes in its place.
  leave(button) {
    queueMicrotask(() => Object.values(this.buttons).find((other) => other !== button && !other.hidden)?.focus());
  }

  async ask(act) {
    const { task_id: task, name } = this.row;
    if (act === "delete" && !confirm(`Remove ${name} from the list? Its run and its checkpoints stay on disk.`)) return;
    try {
      if (act === "delete") await call("DELETE", `/jobs/${segment(task)}`);
      else await call("POST", `/${act}/${segment(task)}`);
      this.moved();
    } catch (error) {
      this.moved(error);
    }
  }
}
