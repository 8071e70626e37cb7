// Follows the events of one run through fetch, because EventSource cannot send a token. Each event comes once: after a
// cut it goes on behind the last id. A page that is not seen follows nothing, and takes no connection from others.

import { Problem, send, segment } from "./api.js";

const LAST = ["complete", "failed", "stopped", "paused", "interrupted"];
const LONGEST_WAIT = 8000;

export class EventStream {
  // heard(event) gets every event; connected(true | false) tells when the line is up or down.
  constructor(task, heard, connected) {
    Object.assign(this, { task, heard, connected, last: "", over: false, closed: false, cut: null });
    this.looked = () => (document.hidden ? this.cut?.abort() : this.open());
    document.addEventListener("visibilitychange", this.looked);
    this.open();
  }

  close() {
    this.closed = true;
    this.cut?.abort();
    document.removeEventListener("visibilitychange", this.looked);
  }

  // Begins to follow, unless it does already; also again, once a run that had ended goes on.
  async open() {
    if (this.cut || this.closed) return;
    this.cut = new AbortController();
    this.over = false;
    for (let wait = 500; !this.over && !this.closed && !document.hidden; wait = Math.min(2 * wait, LONGEST_WAIT)) {
      try {
        if (await this.read(this.cut.signal)) wait = 500;
      } catch (error) {
        if (error instanceof Problem && [401, 403, 404].includes(error.status)) this.over = true;
      }
      if (this.over || this.closed || document.hidden) break;
      this.connected(false);
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
    this.cut = null;
  }

  // Reads one answer to its end; tells whether any event came.
  async read(signal) {
    const headers = this.last ? { "Last-Event-ID": this.last } : {};
    const answer = await send("GET", `/stream-progress/${segment(this.task)}`, { headers, signal });
    this.connected(true);
    if (answer.status === 204) {
      this.over = true;
      return true;
    }
    let came = false;
    for await (const { id, data } of messages(answer.body)) {
      if (this.closed) return came;
      if (!id) continue; // the server is about to end
      this.last = id;
      came = true;
      const event = JSON.parse(data);
      this.over = LAST.includes(event.type);
      this.heard(event);
    }
    return came;
  }
}

async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const field = (name) => block.split("\n").filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2));
      const data = field("data").join("\n");
      if (data) yield { id: field("id")[0], data };
    }
  }
}
