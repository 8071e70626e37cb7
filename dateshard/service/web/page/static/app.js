// The page: asks for the token once, then shows all runs and the chosen one for as long as it is open. Trainings need
// no page: one that is closed or loaded again finds everything as it stands.

import { call, forgetToken, hasToken, keepToken } from "./api.js";
import { DateCalendar } from "./date_calendar.js";
import { setText } from "./elements.js";
import { AT_REST, counted } from "./figures.js";
import { RunDetail } from "./run_detail.js";
import { RunList } from "./run_list.js";
import { StartForm } from "./start_form.js";

const OFTEN = 1000, SELDOM = 4000; // milliseconds between two looks at the list: while something runs, and else
const PAGE = 100;
const at = (id) => document.getElementById(id);

const state = { rows: [], detail: null, timer: undefined, more: null, wanted: PAGE, up: true, looking: false };
const list = new RunList(at("runs"), moved);
const calendar = new DateCalendar(at("calendar"));
const form = new StartForm(at("start"), (task) => { location.hash = `#/runs/${task}`; look(); });

function chosen() {
  const task = /^#\/runs\/(\w+)$/.exec(location.hash)?.[1];
  const named = state.rows.find((row) => row.task_id === task);
  return named ?? state.rows.find((row) => !AT_REST.includes(row.training_state)) ?? state.rows[0];
}

async function look() {
  clearTimeout(state.timer);
  if (document.hidden || !hasToken()) return;
  if (state.looking) { state.again = true; return; }
  state.looking = true;
  try {
    show(await allJobs());
    connected(true);
  } catch (error) {
    if (error.status !== undefined && error.status !== 401) tell(error.message, true);
    else if (error.status === undefined) connected(false);
  }
  state.looking = false;
  const active = state.rows.some((row) => !AT_REST.includes(row.training_state));
  if (hasToken()) state.timer = setTimeout(look, state.again ? 0 : active || !state.up ? OFTEN : SELDOM);
  state.again = false;
}

async function allJobs() {
  const rows = [];
  let next = null;
  do {
    const page = await call("GET", `/jobs?limit=${PAGE}${next ? `&cursor=${encodeURIComponent(next)}` : ""}`);
    rows.push(...page.jobs);
    next = page.next;
  } while (next && rows.length < state.wanted);
  state.more = next;
  return rows;
}

function show(rows) {
  state.rows = rows;
  const row = chosen();
  list.update(rows, row?.task_id);
  at("none").hidden = rows.length > 0;
  at("more").hidden = !state.more;
  const busy = rows.filter((one) => !AT_REST.includes(one.training_state) && one.training_state !== "queued").length;
  const waiting = rows.filter((one) => one.training_state === "queued").length;
  setText(at("counts"), rows.length ? `${busy} running, ${waiting} waiting, ${counted(rows.length, "run")}` : "");
  if (state.detail && state.detail.task !== row?.task_id) { state.detail.close(); state.detail = null; }
  if (state.detail) state.detail.update(row);
  else if (row) {
    state.detail = new RunDetail(row, moved, connected);
    at("detail").replaceChildren(state.detail.node);
  }
}

function moved(error) {
  tell(error?.message ?? "", Boolean(error));
  look();
}

function tell(text, alarm = false) {
  setText(at("told"), text);
  at("told").classList.toggle("alarm", alarm);
}

function connected(up) {
  if (state.up === up) return;
  state.up = up;
  setText(at("line"), up ? "" : "The server does not answer. Trainings go on; this page tries again.");
}

function enter() {
  const inside = hasToken();
  at("entry").hidden = inside;
  at("inside").hidden = !inside;
  at("leave").hidden = !inside;
  if (!inside) {
    clearTimeout(state.timer);
    state.detail?.close();
    Object.assign(state, { detail: null, rows: [] });
    list.update([]);
    at("token").focus();
    return;
  }
  look();
  calendar.begin();
}

at("entry").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = at("token").value.trim();
  at("token").value = "";
  setText(at("refused"), "");
  keepToken(token.replace(/[^\x21-\x7e]/g, ""));
  try {
    await call("GET", "/jobs?limit=1");
    enter();
  } catch (error) {
    if (error.status === undefined) { forgetToken(); setText(at("refused"), "The server does not answer."); }
  }
});
addEventListener("token-refused", () => {
  forgetToken();
  setText(at("refused"), "The server does not know this token. It was mistyped or revoked; dateshard token create makes another.");
  enter();
});
at("leave").addEventListener("click", () => { forgetToken(); enter(); });
at("new").addEventListener("click", () => form.open());
at("more").addEventListener("click", () => { state.wanted += PAGE; look(); });
addEventListener("hashchange", () => {
  show(state.rows);
  if (matchMedia("(max-width: 980px)").matches) at("detail").scrollIntoView();
  state.detail?.heading.focus({ preventScroll: true });
});
document.addEventListener("visibilitychange", look);
enter();
