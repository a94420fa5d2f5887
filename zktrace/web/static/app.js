// Which view is shown, of what time, and when it is asked for again.

import { count, h } from "./dom.js";
import { Tail } from "./events.js";
import * as views from "./views.js";

const VIEWS = [["", "Overview"], ["clients", "Clients"], ["paths", "Paths"], ["sessions", "Sessions"], ["watches", "Watches"], ["slow", "Slow log"], ["events", "Events"], ["ensemble", "Ensemble"]];
const FILTERED = new Set(["clients", "users", "servers", "paths", "fingerprints", "znodes", "sessions", "watches", "slow", "events"]);
const EVERY_MS = 2000;

const $ = (id) => document.getElementById(id);
const main = $("view"), field = $("filter"), problem = $("filter-problem"), range = $("window");
const tail = new Tail(problem);
const below = location.pathname.includes("/ensembles/"); // a page of one ensemble of a fleet
let paused = false, turn = 0, timer = null, settled = null, chosen = false, shownPath = null;

class Refused extends Error {
  constructor(body) { super(body.detail); this.body = body; }
}

async function ask(path, params) {
  const query = new URLSearchParams(params);
  const response = await fetch(`api/${path}?${query}`, { headers: { Accept: "application/json" } });
  const body = await response.json();
  if (!response.ok) throw new Refused(body);
  return body;
}

views.packets.save = async (wanted) => {
  try {
    const response = await fetch("api/slice", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wanted) });
    const body = await response.json();
    return response.ok ? `${body.file}: ${count(body.packets)} packets${body.complete ? "" : ", not all of that time"}` : body.detail;
  } catch {
    return "The server does not answer.";
  }
};

// What the address says: #/view/id?filter=...&sort=...
function place() {
  const [path, query] = (location.hash.slice(1) || "/").split("?");
  const [name, ...id] = path.split("/").slice(1);
  const params = new URLSearchParams(query ?? "");
  return { name: name ?? "", id: id.length ? decodeURIComponent(id.join("/")) : null, params, filter: params.get("filter") ?? "", sort: params.get("sort"), window: range.value };
}

function go(change) {
  const { params } = place();
  for (const [name, value] of Object.entries(change)) {
    if (value) params.set(name, value);
    else params.delete(name);
  }
  const path = (location.hash.slice(1) || "/").split("?")[0];
  location.hash = params.size ? `${path}?${params}` : path;
}

async function show(again) {
  const mine = ++turn;
  const at = place();
  at.onsort = (sort) => go({ sort });
  if (!again) {
    tail.close();
    navigation(at);
    $("filter-form").hidden = !FILTERED.has(at.name) || at.id !== null;
    field.value = at.filter;
    refuse(null);
  }
  try {
    const name = at.id !== null ? { clients: "client", sessions: "session" }[at.name] : at.name || "overview";
    let elements;
    if (at.name === "events") elements = again ? null : await tail.open(ask, at.filter);
    else elements = await (views[name] ?? (async () => [h("h1", null, "No such view")]))(ask, at);
    if (mine !== turn) return;
    if (elements) replace(elements.flat(3).filter(Boolean), again);
    refuse(null);
  } catch (error) {
    if (mine !== turn) return;
    if (error instanceof Refused && error.body.position !== undefined) refuse(error.body);
    else if (error instanceof Refused) replace([h("h1", null, error.body.title), h("p", null, error.body.detail)], again);
    else if (!again) replace([h("h1", null, "No answer"), h("p", null, "The server does not answer; it is asked again.")], again);
  }
  // Another view begins at its beginning, for those who listen to it, too; another order of the same one does not.
  const path = location.hash.split("?")[0];
  if (!again && shownPath !== null && shownPath !== path) $("main").focus({ preventScroll: true });
  shownPath = path;
}

// Puts elements in place of the last ones; the focus and what was scrolled stay where they were.
function replace(elements, again) {
  const focused = document.activeElement?.closest?.("[data-focus]")?.dataset.focus;
  const scrolled = new Map([...main.querySelectorAll("[data-scroll]")].map((e) => [e.dataset.scroll, e.scrollLeft]));
  main.replaceChildren(...elements);
  main.dataset.at = location.hash; // what is shown now, for those who wait for it
  if (!again && shownPath !== location.hash.split("?")[0]) window.scrollTo(0, 0);
  for (const e of main.querySelectorAll("[data-scroll]")) e.scrollLeft = scrolled.get(e.dataset.scroll) ?? 0;
  if (focused) main.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function refuse(body) {
  field.setAttribute("aria-invalid", body ? "true" : "false");
  problem.textContent = body ? `${body.detail}\n${body.expression}\n${" ".repeat(body.position)}^` : "";
}

// Views that are reached from another one, whose tab is theirs.
const BELONGS = { fingerprints: "paths", znodes: "paths", users: "clients", findings: "" };

function navigation(at) {
  $("nav").replaceChildren(...VIEWS.map(([name, label], i) => h("a", { href: name === "fleet" && below ? "../../#/fleet" : `#/${name}`, title: `${label} (${i + 1})`, "aria-current": name === (BELONGS[at.name] ?? at.name) ? "page" : null }, label)));
  const label = VIEWS.find(([name]) => name === (BELONGS[at.name] ?? at.name))?.[1] ?? at.name;
  document.title = `${label}${at.id ? ` ${at.id}` : ""} – zktrace`;
}

// The strip that is always there: what is read, and what was not seen.
async function strip() {
  let it;
  try {
    it = await ask("coverage", {});
  } catch {
    $("source").textContent = "The server does not answer.";
    return;
  }
  const { source, coverage } = it;
  const how = { reading: source.speed ? `at ${source.speed}x speed` : "reading", done: "read to its end", failed: `failed: ${source.error}`, starting: "starting" }[source.state];
  const down = Object.entries(source.interfaces ?? {}).filter(([, state]) => state !== "up").map(([name, state]) => `${name} is ${state}`);
  const oneIn = coverage.sampling?.one_in ?? 1;
  if (oneIn > 1) down.push(`only 1 of ${count(oneIn)} connections (budget)`);
  const where = (source.listening ?? "").replace(/TCP ports (\S+, ){4,}\S+/, (all) => `${all.split(", ").length} TCP ports`);
  $("source").title = where === source.listening ? "" : source.listening ?? "";
  $("source").textContent = source.listening && source.state === "reading"
    ? [where, ...down, `${source.engine} engine`].join(" · ")
    : `${source.names.map((name) => name.split("/").pop()).join(", ")} · ${how} · ${source.engine} engine`;
  const seen = `${count(coverage.packets)} packets, ${count(coverage.exchanges?.complete ?? 0)} exchanges. `;
  $("coverage").replaceChildren(seen, it.not_seen.length ? h("b", null, `Not seen: ${it.not_seen.join("; ")}`) : "Nothing missing that is known of.",
    coverage.kernel_drops === null ? " Kernel drops: not known." : "");
  views.packets.kept = source.kept !== null;
  if (source.kind === "fleet" && !VIEWS.some(([name]) => name === "fleet")) VIEWS.push(["fleet", "Fleet"]);
  settled = source.state === "done" || source.state === "failed";
  if (!chosen) range.value = settled ? "all" : "5m";
}

async function tick() {
  clearTimeout(timer);
  if (!paused && !document.hidden) {
    const before = settled;
    if (!settled) await strip();
    // Of a capture that is read to its end there is nothing new to ask for.
    if (!settled || before !== settled) await show(true);
  }
  timer = setTimeout(tick, EVERY_MS);
}

function pause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? "Paused" : "Pause";
  tail.pause(paused);
  if (!paused) tick();
}

function theme(next) {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = next ?? (dark ? "light" : "dark");
  document.documentElement.dataset.theme = name;
  try { localStorage.setItem("zktrace-theme", name); } catch { /* not allowed: for this page only */ }
  if (place().name === "") show(true);
}

range.addEventListener("change", () => { chosen = true; show(true); });
$("pause").addEventListener("click", pause);
$("theme").addEventListener("click", () => theme());
$("help").addEventListener("click", () => $("keys").showModal());
$("filter-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (field.value === place().filter) show(false);
  else go({ filter: field.value.trim() });
});
$("filter-clear").addEventListener("click", () => { field.value = ""; go({ filter: "" }); });
window.addEventListener("hashchange", () => show(false));
document.addEventListener("visibilitychange", () => { if (!document.hidden) tick(); });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, select, textarea, dialog")) return;
  if (event.key === "/") { if (!$("filter-form").hidden) { event.preventDefault(); field.focus(); } }
  else if (event.key === "p") pause();
  else if (event.key === "t") theme();
  else if (event.key === "?") $("keys").showModal();
  else if (/^[1-9]$/.test(event.key) && VIEWS[event.key - 1]) location.hash = `#/${VIEWS[event.key - 1][0]}`;
});

let kept = null;
try { kept = localStorage.getItem("zktrace-theme"); } catch { /* as above */ }
if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
await strip();
await show(false);
timer = setTimeout(tick, EVERY_MS);
