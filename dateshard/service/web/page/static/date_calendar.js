// The dates of a dataset with their states, as its report draws them, and what needs work.

import { call, segment } from "./api.js";
import { drawing, element, setText, table } from "./elements.js";
import { counted } from "./figures.js";
import { ReportLink } from "./report_link.js";

export class DateCalendar {
  constructor(node) {
    this.select = element("select", { on: { change: () => this.look() } });
    this.again = element("button", { type: "button", text: "Look again", on: { click: () => this.look() } });
    this.told = element("p", { className: "soft", role: "status" });
    this.body = element("div");
    this.report = null;
    node.replaceChildren(element("div", { className: "choose" }, element("label", { className: "field", text: "Dataset" }, this.select), this.again), this.told, this.body);
  }

  async begin() {
    try {
      const { datasets } = await call("GET", "/choices");
      const names = datasets.map((dataset) => dataset.name);
      this.select.replaceChildren(...names.map((name) => element("option", { value: name, text: name })));
      this.select.value = (datasets.find((dataset) => dataset.default) ?? datasets[0])?.name ?? "";
      if (!names.length) return setText(this.told, "No dataset is prepared yet: run dateshard preprocess first.");
      await this.look();
    } catch (error) {
      setText(this.told, error.message);
    }
  }

  async look() {
    const name = this.select.value;
    setText(this.told, "Looking at the dumps …");
    try {
      const calendar = await call("GET", `/calendar/${segment(name)}`);
      if (name === this.select.value) this.show(calendar);
    } catch (error) {
      this.body.replaceChildren();
      setText(this.told, error.message);
    }
  }

  show({ dataset, generation, drawing: svg, states, attention }) {
    const count = states.reduce((sum, { count: dates }) => sum + dates, 0);
    setText(this.told, svg ? `${counted(count, "date")} in generation ${generation}, each shaded by its number of rows.` : `Generation ${generation}: its rows have no date.`);
    this.report?.close();
    this.report = new ReportLink("data", dataset, "data report");
    const items = states.map(({ state, count: dates, mark }) => element("li", {}, mark ? drawing(mark) : null, element("b", { text: String(dates) }), ` ${state}`));
    const rows = attention.map(({ dates, state, reason }) => [dates, state, reason]);
    this.body.replaceChildren(
      svg ? element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Calendar of dates" }, drawing(svg)) : "",
      element("ul", { className: "states" }, ...items),
      rows.length ? table("Dates that need work", ["dates", "state", "why"], rows) : "",
      this.report.node);
  }
}
