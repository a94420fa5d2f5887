// The views: each asks the API and makes elements of the answer.

import { heat, lines, spark } from "./charts.js";
import { addressLink, bytes, clientLink, clock, count, date, duration, errorsOf, h, ip, link, pathLink, rate, serverLink, sessionLink } from "./dom.js";
import { basis, errorCell, inFlight, numbers, share, table } from "./table.js";

const card = (label, value, more, bad) =>
  h("li", { class: "card" }, h("span", { class: "label" }, label), h("span", { class: bad ? "value bad" : "value" }, value), more && h("span", { class: "more" }, more));

export async function overview(ask, state) {
  const [summary, timeline, ops] = await Promise.all([
    ask("summary", { window: state.window }), ask("timeline", { window: state.window }), ask("ops", { window: state.window, sort: state.sort ?? "requests" })]);
  const total = summary.total, per = summary.per_second;
  if (!total) return [h("h1", null, "Overview"), h("p", { class: "note" }, "Nothing was seen yet.")];
  const errors = errorsOf(total), latency = total.latency_us;
  const hot = summary.hottest_path, slow = summary.slowest_client, busy = summary.busiest_client, op = summary.slowest_op;
  const names = Object.entries(total.errors).map(([name, n]) => `${name} ${count(n)}`).slice(0, 3).join(", ");
  ops.seconds = total.requests / Math.max(per.requests, 1e-9);
  return [
    h("h1", null, "Overview"),
    h("ul", { class: "cards out", "aria-label": "What stands out" },
      hot && card("Hottest znode", pathLink(hot.key), `${count(hot.requests)} requests, ${percent(hot.requests, total.requests)} of all`),
      slow && card("Slowest client", addressLink(slow.key), `p99 ${duration(slow.value)}, ${count(slow.requests)} requests`),
      busy && card("Busiest client", addressLink(busy.key), `${count(busy.requests)} requests, ${percent(busy.requests, total.requests)} of all`),
      op && card("Slowest operation", link(`#/slow?filter=${encodeURIComponent(`op == ${op.key}`)}`, op.key), `p99 ${duration(op.value)}, ${count(op.requests)} requests`)),
    h("ul", { class: "cards", "aria-label": "In total" },
      card("Requests", `${rate(per.requests)} /s`, `${count(total.requests)} in all`),
      card("Latency p50", duration(latency?.p50), "pings and connects left out"),
      card("Latency p99", duration(latency?.p99), `max ${duration(latency?.max)}`),
      card("Errors", count(errors), errors ? `${percent(errors, total.replies)} of replies: ${names}` : "none", errors > 0),
      card("Watch events", count(total.watch_events), `${rate(per.watch_events)} /s`),
      card("Sessions", link("#/sessions", `${count(summary.sessions.open ?? 0)} open`), `${count(summary.sessions.expired ?? 0)} expired, ${count(summary.sessions.closed ?? 0)} closed`)),
    h("div", { class: "charts" },
      lines("Per second", timeline, [
        { name: "requests", value: (p) => p.requests / timeline.step_s },
        { name: "watch events", value: (p) => p.watch_events / timeline.step_s },
        { name: "errors", value: (p) => p.errors / timeline.step_s }], rate),
      lines("Latency", timeline, [{ name: "p50", value: (p) => p.p50_us }, { name: "p99", value: (p) => p.p99_us }], duration),
      heat("Exchanges by latency, over time", timeline, duration)),
    h("h2", null, "Operations"),
    table("Operations", [
      { name: "op", label: "operation", sort: "key", class: "mono", cell: (row) => row.op === null ? "unknown" : row.op === undefined ? "" : link(`#/events?filter=${encodeURIComponent(`op == ${row.op}`)}`, row.op) },
      ...numbers(ops),
      { name: "trend", label: "rate over time", sum: false, cell: (row) => spark(row.op ?? "unknown", timeline.points.map((p) => p.ops[row.op]?.[0] ?? 0)) },
    ], ops.rows, { sorted: state.sort ?? "requests", onsort: state.onsort, rest: ops.rest }),
    h("p", null, link("#/findings", "Findings"), " · ", link("#/servers", "Servers"), " · ", link("#/ensemble", "Ensemble"), " · ", link("#/coverage", "Coverage")),
  ];
}

// Where packets are kept (--write): asks for a slice, and tells of it.
export const packets = { kept: false, save: null };

const answers = new Map(); // to what was saved, since tables are made anew

// A button that saves the packets of a time (ns) and of two ends (null: any), as the proof of what is shown.
function saver(what, from_ns, to_ns, client, server) {
  const told = h("span", { role: "status" }, answers.get(what) ?? "");
  const button = h("button", {
    type: "button", class: "save", "aria-label": `Save the packets of ${what}`, onclick: async () => {
      button.disabled = true;
      told.textContent = " ...";
      answers.set(what, ` ${await packets.save({ from_ns: Math.max(Math.floor(from_ns), 0), to_ns: Math.ceil(to_ns), client, server })}`);
      told.textContent = answers.get(what);
      button.disabled = false;
    },
  }, "Save packets");
  return [button, told];
}

const AROUND_NS = 1e9; // numbers here are good to some hundred nanoseconds only

// A column of such buttons, where there is something to save from.
const saveColumn = (slice) => (packets.kept ? [{ name: "save", label: "packets", cell: slice }] : []);

const percent = (part, whole) => `${whole ? ((100 * part) / whole).toFixed(1) : 0} %`;

const csv = (name, params) => link(`api/${name}?${new URLSearchParams({ ...params, format: "csv", limit: 1000 })}`, "as CSV", { download: "" });

function asked(state) {
  const params = { window: state.window };
  if (state.filter) params.filter = state.filter;
  if (state.sort) params.sort = state.sort;
  return params;
}

function grouping(name, title, key, cell, tools = [], words = null) {
  return async (ask, state) => {
    const params = asked(state);
    const answer = await ask(name, { ...params, limit: 200 });
    return [
      h("h1", null, title), h("div", { class: "tools" }, tools.map(([to, label]) => link(to, label)), csv(name, params)), words && h("p", { class: "note" }, words), basis(answer),
      table(title, [{ name: key, label: key, sort: "key", class: "key-cell", cell: (row) => row[key] === undefined ? "" : cell(row[key]) }, ...numbers(answer)],
        answer.rows, { sorted: state.sort ?? "requests", onsort: state.onsort, rest: answer.rest })];
  };
}

export const clients = grouping("clients", "Clients", "client", addressLink, [["#/users", "By user"]]);

// What has authenticated, as the wire tells it; the rest of the requests is of connections that were not seen to.
const userCell = (user) => user === null ? h("span", { class: "dim" }, "(not seen to authenticate)")
  : /["\\]/.test(user) ? user : link(`#/events?filter=${encodeURIComponent(`event == authenticated and detail == "${user}"`)}`, user);

export const users = grouping("users", "Users", "user", userCell, [["#/clients", "By address"]],
  "Who connections have authenticated as: digest, SASL DIGEST-MD5, or what the server answered to whoAmI. Kerberos' names and certificates are not on the wire; of connections that were open before, it is not known.");
export const servers = grouping("servers", "Servers", "server", serverLink);

// A shape as a glob: what stands in angle brackets is any text.
const glob = (shape) => shape.replace(/<[a-z]+>/g, "*");

export const fingerprints = grouping("fingerprints", "Shapes of paths", "fingerprint", (shape) => shape === null ? h("span", { class: "dim" }, "(operations without a path)")
  : /["\\]/.test(shape) ? shape : link(`#/paths?flat=1&filter=${encodeURIComponent(`path =~ "${glob(shape)}"`)}`, shape), [["#/paths", "As a tree"]]);

export async function client(ask, state) {
  const it = await ask(`clients/${encodeURIComponent(state.id)}`, { window: state.window });
  const total = it.total;
  return [
    h("p", { class: "crumbs" }, link("#/clients", "Clients"), " / ", it.client),
    h("h1", null, `Client ${it.client}`),
    total && totals(total),
    h("p", null, link(`#/events?filter=${encodeURIComponent(`client == ${it.client}`)}`, "Its events"), " · ", link(`#/paths?filter=${encodeURIComponent(`client == ${it.client}`)}`, "Its znodes as a tree")),
    detail(it, `client == ${it.client}`), h("h2", null, "Sessions"), sessionTable(it.sessions), h("h2", null, "Slowest"), slowTable(it.slow)];
}

const totals = (row) => h("ul", { class: "cards", "aria-label": "In total" },
  card("Requests", count(row.requests)), card("Latency p50", duration(row.latency_us?.p50)), card("Latency p99", duration(row.latency_us?.p99)),
  card("Errors", errorCell(row), null, errorsOf(row) > 0), row.in_flight && card("In flight", inFlight(row), "on average, and at most at once on one connection"), card("Bytes", bytes(row.request_bytes + row.reply_bytes)), card("Watch events", count(row.watch_events)));

// `whose`: a filter that selects what this is about.
function detail(it, whose) {
  const answer = (rows) => ({ rows, window: it.window ?? { seconds: 0 } });
  const columns = (rows) => numbers(answer(rows)).filter((column) => column.name !== "rate");
  return [
    h("p", { class: "note" }, `Operations and znodes: of the latest ${count(it.events)} events${it.complete ? "" : ", which do not reach back through the whole time range"}.`),
    h("h2", null, "Operations"), table("Operations", [{ name: "op", label: "operation", class: "mono", cell: (row) => row.op === null ? "unknown" : link(`#/events?filter=${encodeURIComponent(`op == ${row.op} and ${whose}`)}`, row.op) }, ...columns(it.ops)], it.ops),
    h("h2", null, "Znodes"), table("Znodes", [{ name: "path", label: "path", class: "key-cell", cell: (row) => pathLink(row.path) }, ...columns(it.paths)], it.paths)];
}

export async function paths(ask, state) {
  const under = state.params.get("under") ?? "/", flat = state.params.get("flat") === "1";
  const params = asked(state);
  if (!flat) Object.assign(params, under === "/" ? { depth: 1 } : { under, depth: 1 });
  else if (under !== "/") params.under = under;
  const answer = await ask("paths", { ...params, limit: 200 });
  const here = (path, more = {}) => {
    const query = new URLSearchParams({ under: path, ...(flat ? { flat: "1" } : {}), ...(state.filter ? { filter: state.filter } : {}), ...more });
    return `#/paths?${query}`;
  };
  const parts = under === "/" ? [] : under.slice(1).split("/");
  const crumbs = [link(here("/"), "/")];
  parts.forEach((part, i) => crumbs.push(i ? " / " : " ", link(here(`/${parts.slice(0, i + 1).join("/")}`), part)));
  const name = (row) => {
    if (row.path === undefined) return "";
    if (row.path === null) return h("span", { class: "dim" }, row.below ? "(other paths, not kept apart)" : "(operations without a path)");
    if (row.below) return [row.path, h("span", { class: "dim" }, " and below, not kept apart")];
    if (row.path === under && !flat) return [row.path, h("span", { class: "dim" }, row.children ? "" : " (itself)")];
    return [link(here(row.path), row.path), row.children ? h("span", { class: "dim" }, ` + ${count(row.children)} below`) : ""];
  };
  return [
    h("h1", null, "Paths"), h("p", { class: "crumbs" }, crumbs),
    h("div", { class: "tools" },
      link(here(under, flat ? { flat: "0" } : { flat: "1" }), flat ? "As a tree" : "Flat, all depths"),
      link("#/fingerprints", "By shape"), link("#/znodes", "Largest"),
      under !== "/" && link(`#/events?filter=${encodeURIComponent(`path == "${under}" or path =~ "${under}/**"`)}`, "Its events"),
      csv("paths", params)),
    basis(answer),
    table("Paths", [{ name: "path", label: "path", sort: "key", class: "key-cell", cell: name }, ...numbers(answer)],
      answer.rows, { sorted: state.sort ?? "requests", onsort: state.onsort, rest: answer.rest })];
}

const silence = (row) => {
  if (row.silence_percent === null) return duration(row.silence_ms * 1000);
  return h("span", { class: row.silence_percent >= 66 ? "bad" : null }, `${row.silence_percent} %`);
};

function sessionTable(rows, more) {
  return table("Sessions", [
    { name: "session", label: "session", class: "mono", cell: (row) => sessionLink(row.session) },
    { name: "state", label: "state", cell: (row) => h("span", { class: `tag ${{ open: "good", expired: "bad", overdue: "bad" }[row.state] ?? "dim"}` }, row.state) },
    { name: "client", label: "client", class: "mono", cell: (row) => clientLink(row.client) },
    { name: "server", label: "server", class: "mono", cell: (row) => serverLink(row.server) },
    { name: "timeout", label: "timeout", num: true, cell: (row) => row.timeout_ms === null ? "–" : duration(row.timeout_ms * 1000) },
    { name: "silence", label: "longest silence / timeout", sort: "silence_percent", num: true, cell: silence },
    { name: "silent", label: "who was silent", cell: (row) => row.silent === null ? "" : h("span", { title: row.silent_why }, row.silent) },
    { name: "near", label: "near misses", sort: "near_misses", num: true, cell: (row) => count(row.near_misses) },
    { name: "connects", label: "connects", sort: "connects", num: true, cell: (row) => count(row.connects) },
    { name: "moves", label: "moves", sort: "moves", num: true, cell: (row) => count(row.moves) },
    { name: "requests", label: "requests", sort: "requests", num: true, cell: (row) => count(row.requests) },
    { name: "errors", label: "errors", sort: "errors", num: true, cell: (row) => count(row.errors) },
    { name: "last", label: "last seen", sort: "last_seen", num: true, cell: (row) => clock(row.last_seen_ns) },
  ], rows, more);
}

export async function sessions(ask, state) {
  const params = asked(state);
  const answer = await ask("sessions", { ...params, limit: 200 });
  return [
    h("h1", null, "Sessions"), h("div", { class: "tools" }, csv("sessions", params)),
    h("p", { class: "note" }, `${count(answer.groups)} sessions, ${count(answer.expired)} seen to expire.`, answer.forgotten ? ` ${count(answer.forgotten)} forgotten (limit).` : "",
      " A silence is the time between two requests, pings among them; from 66 % of the timeout on it was a near miss."),
    h("details", null, h("summary", null, "Who was silent: how that is judged, and what it cannot know"), h("p", { class: "note" }, answer.rule)),
    sessionTable(answer.rows, { sorted: state.sort ?? "last_seen", onsort: state.onsort })];
}

export async function session(ask, state) {
  const it = await ask(`sessions/${encodeURIComponent(state.id)}`, {});
  const row = it.session;
  const pair = (name, value) => [h("dt", null, name), h("dd", null, value)];
  return [
    h("p", { class: "crumbs" }, link("#/sessions", "Sessions"), " / ", row.session),
    h("h1", null, `Session ${row.session}`),
    h("dl", { class: "pairs" },
      pair("state", row.state), pair("client", clientLink(row.client)), pair("server", serverLink(row.server)), pair("timeout", row.timeout_ms === null ? "–" : duration(row.timeout_ms * 1000)),
      pair("seen", `${date(row.first_seen_ns)} to ${date(row.last_seen_ns)} UTC`),
      pair("longest silence", [duration(row.silence_ms * 1000), row.silence_percent === null ? "" : ` (${row.silence_percent} % of the timeout)`, row.silence_at_ns === null ? "" : `, from ${clock(row.silence_at_ns, 3)}`]),
      row.silent !== null && pair("who was silent", `${row.silent}: ${row.silent_why}`),
      pair("near misses", count(row.near_misses)),
      pair("requests", `${count(row.requests)}, ${count(row.errors)} with an error`), pair("watch events", count(row.watch_events))),
    h("h2", null, "What happened"),
    h("ol", { class: "timeline" }, it.timeline.map((event) => h("li", null, `${clock(event.ts_ns, 3)} ${event.event}${event.detail ? ` (${event.detail})` : ""}${event.client ? `: ${event.client} at ${event.server}` : ""}`)), !it.timeline.length && h("li", null, "No connect was seen: it was there before the capture began.")),
    h("p", null, link(`#/events?filter=${encodeURIComponent(`session == ${row.session}`)}`, "Its events"),
      packets.kept && row.client !== null && [" · ", saver(`session ${row.session}`, row.first_seen_ns - AROUND_NS, row.last_seen_ns + AROUND_NS, ip(row.client), null)]),
    it.total && totals(it.total), detail(it, `session == ${row.session}`), h("h2", null, "Slowest"), slowTable(it.slow)];
}

const company = (one) => `${one.op ?? "unknown"} ${one.path ?? ""} ${one.latency_us === null ? "" : duration(one.latency_us)}, ${bytes(Math.max(one.request_bytes ?? 0, one.reply_bytes ?? 0))}`;

function slowTable(rows, more) {
  return table("Slowest exchanges", [
    { name: "latency", label: "latency", sort: "latency", num: true, cell: (row) => duration(row.latency_us) },
    { name: "time", label: "time", sort: "time", class: "mono", cell: (row) => clock(row.ts_ns, 3) },
    { name: "op", label: "operation", class: "mono", cell: (row) => row.op === null ? "unknown" : link(`#/events?filter=${encodeURIComponent(`op == ${row.op} and client == ${row.client}`)}`, row.op) },
    { name: "path", label: "path", class: "key-cell", cell: (row) => pathLink(row.path) },
    { name: "error", label: "error", cell: (row) => row.error ? h("span", { class: "bad" }, row.error_name) : "" },
    { name: "client", label: "client", class: "mono", cell: (row) => clientLink(row.client) },
    { name: "server", label: "server", class: "mono", cell: (row) => serverLink(row.server) },
    { name: "outstanding", label: "in flight", sort: "outstanding", num: true, cell: (row) => row.outstanding ? h("span", { title: row.beside.map(company).join("\n") }, count(row.outstanding)) : "0" },
    { name: "behind", label: "behind", class: "key-cell aside", cell: (row) => row.beside.length ? company(row.beside[0]) : "" },
    { name: "largest", label: "largest before", num: true, cell: (row) => row.largest_before ? h("span", { title: company(row.largest_before) }, bytes(row.largest_before_bytes)) : "–" },
    { name: "session", label: "session", class: "mono", cell: (row) => sessionLink(row.session) },
    ...saveColumn((row) => saver(`${row.op ?? "this exchange"} at ${clock(row.ts_ns, 3)}`, row.ts_ns - AROUND_NS, row.ts_ns + row.latency_us * 1e3 + AROUND_NS, row.client, row.server)),
  ], rows, more);
}

export async function slow(ask, state) {
  const params = asked(state);
  const answer = await ask("slow", { ...params, limit: 200 });
  return [
    h("h1", null, "Slow log"), h("div", { class: "tools" }, csv("slow", params)),
    h("p", { class: "note" }, "The slowest exchanges, pings and connects left out, with what their connection was doing when they were sent: requests in flight, of those the one that took longest (replies come in order, so it was behind that), and the largest message of the second before."),
    slowTable(answer.rows, { sorted: state.sort ?? "latency", onsort: state.onsort })];
}

const KINDS = { herd: "herd", near_miss: "near miss", expired: "session expired", slow: "slow" };

// Where a finding is looked at more closely.
function findingLink(row) {
  if (row.kind === "herd") return link(`#/watches?filter=${encodeURIComponent(`path == ${JSON.stringify(row.path)}`)}`, KINDS.herd);
  if (row.session !== null && row.kind !== "slow") return link(`#/sessions/${row.session}`, KINDS[row.kind]);
  return link(row.client ? `#/slow?filter=${encodeURIComponent(`client == ${row.client}`)}` : "#/slow", KINDS[row.kind] ?? row.kind);
}

function proofCell(row) {
  if (row.proof) return h("span", { title: row.proof.complete ? "" : "Not all of that time" }, h("span", { class: "mono" }, row.proof.file), ` ${count(row.proof.packets)} packets${row.proof.complete ? "" : ", not all"}`);
  return row.why_not ?? "–";
}

export async function findings(ask) {
  const it = await ask("findings", { limit: 200 });
  return [
    h("h1", null, "Findings"),
    h("p", { class: "note" }, "What stands out, of the last hour: writes that sent watch events to 20 sessions or more, silences of two thirds of a session's timeout or more, sessions that were called expired, and exchanges of 100 ms or more that took ten times the p99.",
      it.kept ? " The packets that prove it are saved in the directory of --write, up to six times a minute." : " With --write DIR the packets that prove it would be saved.",
      it.left_out ? ` ${count(it.left_out)} were left out, as there were more.` : ""),
    table("Findings", [
      { name: "time", label: "time", class: "mono", cell: (row) => clock(row.ts_ns, 3) },
      { name: "kind", label: "what", cell: findingLink },
      { name: "text", label: "in words", class: "words", cell: (row) => row.text },
      { name: "client", label: "client", class: "mono", cell: (row) => row.client === null ? "" : addressLink(row.kind === "slow" ? ip(row.client) : row.client) },
      { name: "session", label: "session", class: "mono", cell: (row) => sessionLink(row.session) },
      ...(it.kept ? [{ name: "proof", label: "packets", cell: proofCell }] : []),
    ], it.rows)];
}

export async function znodes(ask, state) {
  const params = asked(state);
  delete params.window;
  const it = await ask("znodes", { ...params, limit: 200 });
  const seen = (value, at) => value === null ? "" : h("span", { title: `seen ${clock(at, 3)}` }, value);
  return [
    h("h1", null, "Largest znodes"), h("div", { class: "tools" }, link("#/paths", "As a tree"), csv("znodes", params)),
    h("p", { class: "note" }, `The most data, the most children and the longest message of each path that were ever seen, of the largest by either. Percent are of jute.maxbuffer where nobody set it (${bytes(it.jute_maxbuffer)}): a longer message ends the connection.`),
    table("Largest znodes", [
      { name: "path", label: "path", class: "key-cell", cell: (row) => pathLink(row.path) },
      { name: "data", label: "data", sort: "data", num: true, cell: (row) => seen(row.data_bytes === null ? null : bytes(row.data_bytes), row.data_at_ns) },
      { name: "children", label: "children", sort: "children", num: true, cell: (row) => seen(row.children === null ? null : count(row.children), row.children_at_ns) },
      { name: "message", label: "longest message", sort: "message", num: true, cell: (row) => seen(row.message_bytes === null ? null : bytes(row.message_bytes), row.message_at_ns) },
      { name: "op", label: "of", class: "mono", cell: (row) => row.message_op ?? "" },
      { name: "percent", label: "of the limit", num: true, cell: (row) => h("span", { class: row.percent >= 50 ? "bad" : null }, `${row.percent} %`) },
    ], it.rows, { sorted: state.sort ?? "data", onsort: state.onsort })];
}

export async function watches(ask, state) {
  const params = asked(state);
  const it = await ask("watches", { ...params, limit: 200 });
  const sum = (kinds) => Object.values(kinds).reduce((a, b) => a + b, 0);
  const words = (kinds) => Object.entries(kinds).filter(([, n]) => n).map(([name, n]) => `${name} ${count(n)}`).join(", ") || "none";
  return [
    h("h1", null, "Watches"), h("div", { class: "tools" }, csv("watches", params)),
    h("ul", { class: "cards out", "aria-label": "In total" },
      card("Registered", count(sum(it.registered)), words(it.registered)), card("Set again after reconnects", count(sum(it.restored)), words(it.restored)), card("Events sent", count(sum(it.fired)), words(it.fired))),
    h("h2", null, "Writes by the events they fired"),
    h("p", { class: "note" }, "Exact where the server tells the write's zxid in the event (ZooKeeper 3.9 and later); otherwise events of one path within a second count together. Re-reads are reads of the path by those who were told, within a second."),
    table("Writes", [
      { name: "events", label: "events", num: true, cell: (row) => count(row.events) },
      { name: "sessions", label: "sessions", num: true, cell: (row) => row.herd ? [count(row.sessions), " ", h("span", { class: "tag bad", title: "20 sessions or more are woken by one write" }, "herd")] : count(row.sessions) },
      { name: "rereads", label: "re-reads", num: true, cell: (row) => h("span", { title: `${bytes(row.reread_bytes)} of replies` }, count(row.rereads)) },
      { name: "path", label: "path", class: "key-cell", cell: (row) => pathLink(row.path) },
      { name: "op", label: "write", class: "mono", cell: (row) => row.op ?? "–" },
      { name: "client", label: "by", class: "mono", cell: (row) => row.client === null ? "–" : clientLink(row.client) },
      { name: "kinds", label: "kinds", cell: (row) => words(row.kinds) },
      { name: "spread", label: "first to last", num: true, cell: (row) => duration(row.spread_ms * 1000) },
      { name: "zxid", label: "zxid", class: "mono", cell: (row) => row.zxid ?? h("span", { class: "dim" }, "by second") },
      { name: "time", label: "time", class: "mono", cell: (row) => clock(row.first_ns, 3) },
      ...saveColumn((row) => saver(`the watch events of ${row.path}`, row.first_ns - AROUND_NS, row.first_ns + row.spread_ms * 1e6 + AROUND_NS, null, null)),
    ], it.writes),
    h("h2", null, "Watches that should still be set"),
    h("p", { class: "note" }, `Fact: ${count(it.outstanding.watches)} were granted and neither fired nor went with their session, as far as was seen.`,
      it.outstanding.not_kept ? ` ${count(it.outstanding.not_kept)} more were not kept.` : "",
      it.outstanding.growing.length ? " Guess: sessions marked as growing leak them, since theirs grew in each of the last five minutes." : ""),
    table("Watches that should still be set", [
      { name: "session", label: "session", class: "mono", cell: (row) => sessionLink(row.session) },
      { name: "watches", label: "watches", num: true, cell: (row) => count(row.watches) },
      { name: "growing", label: "growing", cell: (row) => { const one = it.outstanding.growing.find((g) => g.session === row.session); return one ? h("span", { class: "bad" }, `from ${count(one.before)} to ${count(one.now)} in ${duration(one.seconds * 1e6)}`) : ""; } },
    ], it.outstanding.sessions.slice(0, 20)),
    h("h2", null, "Znodes"),
    table("Watched znodes", [
      { name: "path", label: "path", sort: "key", class: "key-cell", cell: (row) => pathLink(row.path) },
      { name: "registered", label: "registered", sort: "registered", num: true, cell: (row) => count(row.registered) },
      { name: "fired", label: "fired", sort: "fired", num: true, cell: (row) => count(row.fired) },
    ], it.rows, { sorted: state.sort ?? "fired", onsort: state.onsort })];
}

export async function coverage(ask) {
  const it = await ask("coverage", {});
  const flat = Object.entries(it.coverage).flatMap(([key, value]) => value !== null && typeof value === "object" ? Object.entries(value).map(([k, v]) => [`${key}: ${k}`, v]) : [[key, value]]);
  return [
    h("h1", null, "Coverage"), h("p", { class: "note" }, "What was seen, and what was not. A number that a gap may have falsified is not shown anywhere."),
    h("ul", null, it.words.map((line) => h("li", null, line.trim()))),
    table("Counters", [{ name: "key", label: "counter", class: "key-cell", cell: (row) => row[0] }, { name: "value", label: "value", num: true, cell: (row) => row[1] === null ? "not known" : row[0].endsWith("ts_ns") ? `${date(row[1])} UTC` : count(row[1]) }], flat)];
}

export async function ensemble(ask) {
  const it = await ask("ensemble", {});
  if (!it.available) return [h("h1", null, "Ensemble"), h("p", null, `Nothing to show: ${it.reason}.`)];
  const { leaders, learners, elections, sessions } = it.report;
  const us = (name) => (row) => row[name] === null ? "–" : h("span", { title: `max ${duration(row[name].max)}` }, `${duration(row[name].p50)} / ${duration(row[name].p99)}`);
  return [
    h("h1", null, "Ensemble"),
    h("p", { class: "note" }, `Of the latest ${count(it.events)} events${it.complete ? "" : ", which are not all that were seen"}. The whole of a capture: `, h("code", null, "zktrace ensemble"), "; the way of single writes: ", h("code", null, "zktrace trace"), "."),
    h("h2", null, "Leaders"),
    table("Leaders", [
      { name: "leader", label: "leader", class: "mono", cell: (row) => serverLink(row.leader) },
      { name: "sid", label: "sid", num: true, cell: (row) => row.sid ?? "–" },
      { name: "epoch", label: "epoch", num: true, cell: (row) => row.epoch ?? "–" },
      { name: "txns", label: "txns", num: true, cell: (row) => count(row.txns) },
      { name: "followers", label: "followers", num: true, cell: (row) => count(row.followers) },
      { name: "committed", label: "committed", class: "mono", cell: (row) => row.committed_zxid ?? "–" },
      { name: "seen", label: "seen", class: "mono", cell: (row) => `${clock(row.first_ns, 3)} to ${clock(row.last_ns, 3)}` },
    ], leaders),
    h("h2", null, "Followers and observers"),
    table("Followers and observers", [
      { name: "learner", label: "learner", class: "mono", cell: (row) => link(`#/events?filter=${encodeURIComponent(`kind == quorum and client == ${row.learner}`)}`, row.learner) },
      { name: "sid", label: "sid", num: true, cell: (row) => row.sid ?? "–" },
      { name: "role", label: "role", cell: (row) => row.role ?? "unknown" },
      { name: "leader", label: "of", class: "mono", cell: (row) => serverLink(row.leader) },
      { name: "sync", label: "brought up by", cell: (row) => row.sync ? h("span", { title: row.sync.duration_us === null ? "" : `in ${duration(row.sync.duration_us)}` }, synced(row.sync)) : "–" },
      { name: "acks", label: "acks", num: true, cell: (row) => count(row.acks) },
      { name: "ack", label: "ack p50 / p99", num: true, cell: us("ack_us") },
      { name: "disk", label: "its disk p50 / p99", num: true, cell: us("disk_us") },
      { name: "ping", label: "ping p50 / p99", num: true, cell: us("ping_us") },
      { name: "behind", label: "most zxids behind", num: true, cell: (row) => count(row.lag?.max_zxids) },
      { name: "ended", label: "connection", cell: (row) => row.ended === null ? "open" : h("span", { class: "bad" }, `${row.ended} ${clock(row.ended_ns, 3)}`) },
    ], learners),
    h("h2", null, "Elections"),
    table("Elections", [
      { name: "time", label: "time", class: "mono", cell: (row) => link("#/events?filter=kind%20%3D%3D%20election", clock(row.start_ns, 3)) },
      { name: "what", label: "what", class: "words", cell: (row) => row.kind === "join" ? "joined a leader that was there" : "election" },
      { name: "took", label: "took", num: true, cell: (row) => duration(row.duration_us) },
      { name: "winner", label: "winner", num: true, cell: (row) => row.winner ?? "–" },
      { name: "epoch", label: "epoch", num: true, cell: (row) => row.epoch ?? "–" },
      { name: "leader", label: "leader", class: "mono", cell: (row) => serverLink(row.leader) },
      { name: "serving", label: "served from", class: "mono", cell: (row) => row.serving_ns === null ? "–" : clock(row.serving_ns, 3) },
      { name: "cause", label: "because", class: "words", cell: (row) => cause(row.cause) },
    ], elections),
    writePath(it.writes),
    h("h2", null, "Sessions that moved or expired"),
    table("Sessions that moved or expired", [
      { name: "time", label: "time", class: "mono", cell: (row) => clock(row.ts_ns, 3) },
      { name: "session", label: "session", class: "mono", cell: (row) => sessionLink(row.session) },
      { name: "what", label: "what", class: "words", cell: (row) => row.to === undefined ? h("span", { class: "bad" }, "expired") : `moved from ${row.from ?? "?"} to ${row.to}` },
    ], [...sessions.moves, ...sessions.expiries].sort((a, b) => b.ts_ns - a.ts_ns).slice(0, 100)),
  ];
}

function synced(sync) {
  if (sync.snapshot_bytes !== null) return `${sync.type}, ${bytes(sync.snapshot_bytes)}`;
  return sync.txns ? `${sync.type}, ${count(sync.txns)} txns` : sync.type;
}

function cause(it) {
  if (it === null) return "not seen";
  if (it.what === "no_leader_seen") return "no leader was seen before";
  return `${count(it.connections)} connection${it.connections === 1 ? "" : "s"} to ${it.leader} ended at ${clock(it.ts_ns, 3)}`;
}

// The stages of writes, in the order in which a write passes them; each has a colour.
const STAGES = ["server", "leader", "quorum", "commit", "reply"];

// One write's stages, side by side.
function way(write) {
  const bar = h("span", { class: "way", role: "img", "aria-label": write.stages.map((s) => `${s.stage} ${duration(s.us)}`).join(", ") });
  for (const stage of write.stages) {
    const part = h("span", { class: `stage-${STAGES.includes(stage.stage) ? stage.stage : "other"}`, title: `${stage.from} to ${stage.to}: ${duration(stage.us)}` });
    part.style.flexGrow = String(Math.max(stage.us, 0));
    bar.append(part);
  }
  return bar;
}

const critical = (write) => {
  const [name, us] = Object.entries(write.parts ?? {}).sort((a, b) => b[1] - a[1])[0] ?? [];
  return name === undefined ? "" : `${percent(us, write.total_us)} ${name.replace("_", " ")}`;
};

function writePath(writes) {
  if (!writes) return [h("h2", null, "The way of writes"), h("p", { class: "note" }, "No write was seen on its way through the ensemble.")];
  const { summary, slowest } = writes;
  const missing = Object.entries(summary.not_seen).map(([what, n]) => `${what} of ${count(n)}`).join(", ");
  const quantile = (name) => ({ name, label: name, num: true, cell: (row) => duration(row.us?.[name]) });
  const shares = (rows) => { const most = Math.max(...rows.map((row) => row.share), 1e-9); return { name: "share", label: "of the time", num: true, cell: (row) => [`${(100 * row.share).toFixed(1)} %`, share(row.share, most)] }; };
  return [
    h("h2", null, "The way of writes"),
    h("p", { class: "note" }, `${count(summary.writes)} writes, ${count(summary.answered)} answered, ${count(summary.complete)} followed all the way; p50 ${duration(summary.latency_us?.p50)}, p99 ${duration(summary.latency_us?.p99)}.`,
      missing ? ` Not seen: ${missing}; stages between what was seen are one.` : ""),
    h("p", { class: "legend", "aria-hidden": "true" }, STAGES.map((name) => h("span", null, h("span", { class: `swatch stage-${name}` }), name))),
    table("Slowest writes", [
      { name: "latency", label: "latency", num: true, cell: (row) => duration(row.latency_us ?? row.total_us) },
      { name: "way", label: "its stages", class: "way-cell", cell: way },
      { name: "most", label: "most of it", cell: critical },
      { name: "op", label: "operation", class: "mono", cell: (row) => row.op ?? "unknown" },
      { name: "path", label: "path", class: "key-cell", cell: (row) => pathLink(row.path) },
      { name: "time", label: "time", class: "mono", cell: (row) => clock(row.ts_ns, 3) },
      { name: "client", label: "client", class: "mono", cell: (row) => row.client === null ? "–" : clientLink(row.client) },
      { name: "server", label: "by", class: "mono", cell: (row) => [serverLink(row.server), row.server_role ? ` (${row.server_role})` : ""] },
      { name: "session", label: "session", class: "mono", cell: (row) => sessionLink(row.session) },
      { name: "zxid", label: "zxid", class: "mono", cell: (row) => row.zxid ?? "–" },
    ], slowest),
    h("h3", null, "Stages"),
    table("Stages of writes", [
      { name: "stage", label: "stage", cell: (row) => [h("span", { class: `swatch stage-${STAGES.includes(row.stage) ? row.stage : "other"}`, "aria-hidden": "true" }), row.stage] },
      { name: "between", label: "from > to", class: "mono", cell: (row) => `${row.from} > ${row.to}` },
      { name: "writes", label: "writes", num: true, cell: (row) => count(row.count) },
      quantile("p50"), quantile("p90"), quantile("p99"), quantile("max"), shares(summary.stages),
    ], summary.stages),
    h("h3", null, "What the time went to"),
    table("What the time went to", [
      shares(summary.parts),
      { name: "meaning", label: "what", class: "words", cell: (row) => row.meaning },
      { name: "where", label: "at", class: "mono", cell: (row) => row.where ?? "–" },
    ], summary.parts.slice(0, 12)),
  ];
}

// Of many sensors: who they are, and what came of them.
export async function fleet(ask) {
  const it = await ask("fleet", {});
  return [
    h("h1", null, "Fleet"),
    h("p", { class: "note" }, it.problem ? h("span", { class: "bad" }, `${it.bus} does not answer: ${it.problem}. What is shown is what had come before.`) : `From ${it.bus} at ${it.nats ?? it.kafka}.`,
      it.behind ? ` ${count(it.behind)} messages are not read yet.` : ""),
    h("h2", null, "Ensembles"),
    h("ul", null, it.ensembles.map((name) => h("li", null, link(`ensembles/${encodeURIComponent(name)}/`, name))), !it.ensembles.length && h("li", null, "No agent was heard of.")),
    h("h2", null, "Agents"),
    table("Agents", [
      { name: "name", label: "agent", class: "mono", cell: (row) => row.name },
      { name: "ensemble", label: "ensemble", cell: (row) => link(`ensembles/${encodeURIComponent(row.ensemble)}/`, row.ensemble) },
      { name: "silent", label: "silent for", num: true, cell: (row) => h("span", { class: row.silent_s > 60 ? "bad" : null }, duration(row.silent_s * 1e6)) },
      { name: "requests", label: "requests", num: true, cell: (row) => count(row.requests) },
      { name: "packets", label: "packets", num: true, cell: (row) => count(row.coverage.packets) },
      { name: "drops", label: "kernel drops", num: true, cell: (row) => row.coverage.kernel_drops === null ? "not known" : count(row.coverage.kernel_drops) },
      { name: "gaps", label: "gaps", num: true, cell: (row) => count(row.coverage.gaps) },
      { name: "missing", label: "messages missing", num: true, cell: (row) => row.missing_messages ? h("span", { class: "bad" }, count(row.missing_messages)) : "0" },
    ], it.agents)];
}
