// The event tail: what the filter selects, as it is decoded.

import { clientLink, clock, count, duration, h, pathLink, sessionLink } from "./dom.js";

const KEPT = 500;

export class Tail {
  constructor(problem) {
    this.problem = problem;
    this.events = [];
    this.dropped = 0;
    this.paused = false;
    this.waiting = 0;
  }

  // Begins to follow; `list` gets the rows, `words` the count of what was left out.
  async open(ask, filter) {
    this.close();
    this.list = h("ul", { class: "events", "aria-label": "Events, latest first" });
    this.words = h("p", { class: "note", role: "status" });
    this.events = [];
    this.dropped = 0;
    const answer = await ask("events", { limit: 200, ...(filter ? { filter } : {}) });
    this.add(answer.rows.reverse());
    const query = new URLSearchParams({ after: answer.last, ...(filter ? { filter } : {}) });
    this.source = new EventSource(`api/stream?${query}`);
    this.source.addEventListener("events", (message) => {
      const { events, dropped } = JSON.parse(message.data);
      this.dropped += dropped;
      if (this.paused) this.waiting += events.length;
      else this.add(events);
      this.say();
    });
    this.source.onerror = () => { this.broken = true; this.say(); };
    this.source.onopen = () => { this.broken = false; this.say(); };
    this.say();
    return [h("h1", null, "Events"), this.words, this.list];
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  pause(on) {
    this.paused = on;
    if (!on) { this.dropped += this.waiting; this.waiting = 0; }
    if (this.source) this.say();
  }

  add(events) {
    for (const event of events) this.list.prepend(row(event));
    while (this.list.children.length > KEPT) this.list.lastChild.remove();
  }

  say() {
    const n = this.list.children.length;
    const words = [n ? `${count(n)} shown, latest first.` : "Nothing yet."];
    if (this.dropped) words.push(`${count(this.dropped)} passed too quickly to be shown.`);
    if (this.paused) words.push(`Paused; ${count(this.waiting)} came since.`);
    if (this.broken) words.push("The server does not answer; trying again.");
    this.words.textContent = words.join(" ");
  }
}

const WORDS = {
  exchange: (e) => [e.op ?? "unknown request", e.state === "complete" ? duration(e.latency_us) : e.state.replace("_", " ")],
  watch_event: (e) => [`watch: ${e.event}`, e.keeper_state ?? ""],
  connection: (e) => [`connection ${e.event}`, e.role],
  four_letter: (e) => [`four-letter word ${e.word}`, ""],
  fault: (e) => [`fault ${e.rule}: ${e.action}${e.op ? ` on ${e.op}` : ""}`, e.detail ?? ""],
  difference: (e) => [`the shadow differs: ${e.what}${e.op ? ` of ${e.op}` : ""}`, e.first || e.second ? `${e.first}, the shadow: ${e.second}` : ""],
  anomaly: (e) => [`anomaly: ${e.reason}`, e.detail ?? ""],
};

function row(event) {
  const [what, more] = (WORDS[event.kind] ?? ((e) => [e.kind, ""]))(event);
  const bad = event.kind === "anomaly" || event.kind === "fault" || event.kind === "difference" || (event.error !== null && event.error !== undefined && event.error !== 0);
  const summary = h("summary", null,
    h("span", { class: "dim" }, clock(event.ts_ns, 3)),
    h("span", { class: bad ? "bad" : null }, what),
    h("span", { class: "path" }, event.path ?? ""),
    h("span", { class: "dim" }, more),
    bad && event.error_name ? h("span", { class: "bad" }, event.error_name) : null,
    h("span", { class: "dim" }, event.client ?? ""));
  const details = h("details", null, summary);
  details.addEventListener("toggle", () => {
    if (details.children.length > 1) return;
    const pairs = Object.entries(event).filter(([, value]) => value !== null).map(([key, value]) => [h("dt", null, key), h("dd", null, shown(key, value))]);
    details.append(h("div", { class: "detail" }, h("dl", { class: "pairs" }, pairs)));
  });
  return h("li", null, details);
}

function shown(key, value) {
  if (key === "client") return clientLink(value);
  if (key === "session") return sessionLink(value);
  if (key === "path" || key === "created_path") return pathLink(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
