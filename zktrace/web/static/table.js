// Tables that sort at the server, and the rows that most of them show.

import { bytes, count, duration, errorsOf, h, rate } from "./dom.js";

// columns: {name, label, sort?, num?, cell(row)}; `sorted` is the current sort, `onsort` is told another.
export function table(caption, columns, rows, { sorted, onsort, rest } = {}) {
  const head = columns.map((column) => {
    const on = column.sort && column.sort === sorted;
    const label = column.sort && onsort
      ? h("button", { type: "button", "data-focus": `${caption} ${column.sort}`, onclick: () => onsort(column.sort) }, column.label)
      : column.label;
    return h("th", { scope: "col", class: column.num ? "num" : null, "aria-sort": on ? (column.sort === "key" ? "ascending" : "descending") : null }, label);
  });
  const body = rows.map((row) => h("tr", null, columns.map((column) => h("td", { class: column.class ?? (column.num ? "num" : null) }, column.cell(row)))));
  if (rest) body.push(h("tr", { class: "rest" }, columns.map((column, i) => h("td", { class: column.num ? "num" : null }, i === 0 ? "the rest, summed" : column.sum === false ? "" : column.cell(rest)))));
  if (!body.length) body.push(h("tr", null, h("td", { colspan: columns.length, class: "dim" }, "Nothing in this time.")));
  return h("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": caption, "data-focus": `table ${caption}`, "data-scroll": caption },
    h("table", null, h("thead", null, h("tr", null, head)), h("tbody", null, body)));
}

export function share(part, whole) {
  const bar = h("span", { class: "share", "aria-hidden": "true" });
  bar.style.width = `${whole ? Math.max((100 * part) / whole, 0.5) : 0}%`;
  return bar;
}

export function errorCell(row) {
  const n = errorsOf(row);
  if (!n) return "0";
  const names = Object.entries(row.errors).map(([name, k]) => `${name} ${count(k)}`).join(", ");
  return h("span", { class: "bad", title: names }, count(n));
}

// Some may have been missed while the key was not among the busiest.
function requests(row) {
  if (!row.short) return count(row.requests);
  return h("span", { title: `at least ${count(row.requests)}, at most ${count(row.requests + row.short)}` }, `${count(row.requests)} + ≤${count(row.short)}`);
}

export function inFlight(row) {
  if (!row.in_flight) return "–";
  const { mean, most } = row.in_flight, shown = mean >= 10 ? count(Math.round(mean)) : mean >= 0.1 || !mean ? mean.toFixed(2) : Number(mean.toPrecision(1)).toString();
  return h("span", { title: `${shown} requests in flight on average; at most ${count(most)} at once on one connection` }, `${shown}, ≤${count(most)}`);
}

// Columns of a grouping after its key.
export function numbers(answer, extra = []) {
  const most = Math.max(...answer.rows.map((row) => row.requests), 1);
  const latency = (name) => ({ name, label: name, sort: name, num: true, cell: (row) => duration(row.latency_us?.[name]) });
  return [
    { name: "requests", label: "requests", sort: "requests", num: true, cell: (row) => [requests(row), share(row.requests, most)] },
    { name: "rate", label: "per s", num: true, cell: (row) => rate(row.requests / Math.max(answer.seconds ?? answer.window.seconds, 1)) },
    { name: "errors", label: "errors", sort: "errors", num: true, cell: errorCell },
    latency("p50"), latency("p99"), latency("max"),
    ...(answer.rows.some((row) => row.in_flight) ? [{ name: "in_flight", label: "in flight", sort: "in_flight", num: true, cell: inFlight }] : []),
    { name: "total_time", label: "bytes", sort: "bytes", num: true, cell: (row) => bytes(row.request_bytes + row.reply_bytes) },
    { name: "watch_events", label: "watch events", sort: "watch_events", num: true, cell: (row) => count(row.watch_events) },
    ...extra,
  ];
}

export function basis(answer) {
  const words = [];
  if (answer.basis === "events") words.push(`Of the latest ${count(answer.events)} events${answer.complete ? "" : ", which do not reach back through the whole time range"}.`);
  if (answer.short) words.push(`“+ ≤n” are requests that a row may have had while it was not among the busiest, at most.`);
  if (answer.groups > answer.rows.length) words.push(`${count(answer.rows.length)} of ${count(answer.groups)} shown.`);
  return words.length ? h("p", { class: "note" }, words.join(" ")) : null;
}
