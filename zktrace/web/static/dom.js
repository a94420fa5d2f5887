// Elements and words. Text only ever becomes text nodes: nothing that was captured is taken for markup.

export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const whole = new Intl.NumberFormat("en");
const LOW = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (n) => (n === null || n === undefined ? "–" : whole.format(n));
export const rate = (n) => (n === null || n === undefined ? "–" : n >= 100 ? whole.format(Math.round(n)) : LOW.format(n));

export function duration(us) {
  if (us === null || us === undefined) return "–";
  if (us < 1000) return `${LOW.format(us)} µs`;
  if (us < 1e6) return `${LOW.format(us / 1e3)} ms`;
  if (us < 6e7) return `${LOW.format(us / 1e6)} s`;
  return us < 3.6e9 ? `${LOW.format(us / 6e7)} min` : `${LOW.format(us / 3.6e9)} h`;
}

export function bytes(n) {
  if (n === null || n === undefined) return "–";
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (Math.abs(n) < 1000) return `${LOW.format(n)} ${unit}`;
    n /= 1000;
  }
  return `${LOW.format(n)} TB`;
}

// Times are nanoseconds since 1970 (or seconds, as numbers below 1e11).
export function clock(t, digits = 0) {
  if (t === null || t === undefined) return "–";
  const ms = t > 1e14 ? t / 1e6 : t * 1000;
  return new Date(ms).toISOString().slice(11, digits ? 20 + digits : 19);
}

export const date = (t) => (t === null || t === undefined ? "–" : `${new Date(t / 1e6).toISOString().slice(0, 10)} ${clock(t, 3)}`);
export const errorsOf = (row) => Object.values(row.errors).reduce((a, b) => a + b, 0);
export const ip = (endpoint) => endpoint.replace(/^\[?(.*?)\]?:\d+$/, "$1");

// Links between the views.
export const link = (to, text, more) => h("a", { href: to, ...more }, text);
const unknown = () => h("span", { class: "dim" }, "unknown");
export const addressLink = (address) => (address === null ? unknown() : link(`#/clients/${encodeURIComponent(address)}`, address));
export const clientLink = (endpoint) => (endpoint === null ? unknown() : link(`#/clients/${encodeURIComponent(ip(endpoint))}`, endpoint));
// What a server said and was told, clients and other servers alike.
export const serverLink = (endpoint) => (endpoint === null || endpoint === undefined ? "–" : link(`#/events?filter=${encodeURIComponent(`server == ${endpoint}`)}`, endpoint));
export const sessionLink = (s) => (s === null ? h("span", { class: "dim" }, "–") : link(`#/sessions/${s}`, s));
export const pathLink = (p) => (p === null ? h("span", { class: "dim" }, "–") : link(`#/paths?under=${encodeURIComponent(p)}`, p));
