// Small charts. Each says in words what it shows, for those who do not see it.

import { clock, h, svg } from "./dom.js";

const W = 600, H = 150;

// Points of a timeline with holes: seconds in which nothing was seen have none.
function grid(timeline) {
  const { points, step_s: step } = timeline;
  if (!points.length) return null;
  const first = points[0].t, last = points[points.length - 1].t;
  const slots = Math.min(Math.round((last - first) / step) + 1, 5000);
  return { first, last: last + step, slots, at: (p) => Math.min(Math.round((p.t - first) / step), slots - 1) };
}

function line(timeline, place, value, top) {
  let path = "", before = null;
  for (const point of timeline.points) {
    const y = value(point);
    if (y === null) { before = null; continue; }
    const at = place.at(point);
    const x = ((at + 0.5) / place.slots) * W;
    const shown = H - 2 - (top ? Math.min(y / top, 1) : 0) * (H - 8);
    // A point that stands alone is a short dash.
    const joined = before !== null && at - before < 1.5;
    path += joined ? `L${x.toFixed(1)} ${shown.toFixed(1)}` : `M${(x - 2).toFixed(1)} ${shown.toFixed(1)}h2`;
    if (!joined) path += "h2h-2";
    before = at;
  }
  return path;
}

export function lines(title, timeline, series, format) {
  const place = grid(timeline);
  if (!place) return figure(title, series, h("p", { class: "note" }, "Nothing in this time."), null);
  const values = timeline.points.flatMap((p) => series.map((s) => s.value(p))).filter((v) => v !== null);
  const top = Math.max(...values, 0);
  const say = series.map((s) => {
    const own = timeline.points.map(s.value).filter((v) => v !== null);
    return own.length ? `${s.name} from ${format(Math.min(...own))} to ${format(Math.max(...own))}` : `${s.name}: none`;
  }).join(", ");
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}: ${say}` },
    [0.25, 0.5, 0.75].map((y) => svg("path", { class: "grid", d: `M0 ${H * y}H${W}` })),
    series.map((s, i) => svg("path", { class: ["one", "two", "three"][i], d: line(timeline, place, s.value, top) })));
  return figure(title, series, h("div", { class: "plot" }, chart, h("span", { class: "top" }, format(top))), place);
}

function figure(title, series, body, place) {
  return h("figure", null,
    h("figcaption", null, h("strong", null, title), series.map((s, i) => h("span", { class: `key ${["one", "two", "three"][i]}` }, s.name))),
    body,
    place && h("div", { class: "axis" }, h("span", null, clock(place.first)), h("span", null, `${clock(place.last)} UTC`)));
}

export function heat(title, timeline, format) {
  const place = grid(timeline), bounds = timeline.bounds_us;
  if (!place || !bounds.length) return figure(title, [], h("p", { class: "note" }, "Nothing in this time."), null);
  const bands = bounds.length - 1;
  const most = Math.max(...timeline.points.flatMap((p) => p.bands), 1);
  const canvas = h("canvas", { class: "heat", role: "img",
    "aria-label": `${title}: from ${format(bounds[0])} to ${format(bounds[bands])}; at most ${most} exchanges in a cell` });
  const columns = place.slots;
  canvas.width = columns;
  canvas.height = bands;
  const css = getComputedStyle(document.documentElement);
  const [low, high] = ["--heat-low", "--heat-high"].map((name) => css.getPropertyValue(name).split(",").map(Number));
  const image = new ImageData(columns, bands);
  for (const point of timeline.points) {
    const x = place.at(point);
    point.bands.forEach((n, band) => {
      if (!n) return;
      const part = 0.15 + 0.85 * Math.log1p(n) / Math.log1p(most);
      const at = ((bands - 1 - band) * columns + x) * 4;
      for (let c = 0; c < 3; c++) image.data[at + c] = low[c] + (high[c] - low[c]) * part;
      image.data[at + 3] = 255;
    });
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.style.imageRendering = "pixelated";
  return figure(title, [], h("div", { class: "plot" }, canvas, h("span", { class: "top" }, format(bounds[bands])), h("span", { class: "bottom" }, format(bounds[0]))), place);
}

export function spark(name, values) {
  const top = Math.max(...values, 1), n = values.length;
  if (n < 2) return null;
  const d = values.map((v, i) => `${i ? "L" : "M"}${((i / (n - 1)) * 90).toFixed(1)} ${(20 - (v / top) * 18).toFixed(1)}`).join("");
  return svg("svg", { class: "spark chart", viewBox: "0 0 90 22", preserveAspectRatio: "none", role: "img", "aria-label": `${name} over time, at most ${top}` },
    svg("path", { class: "one", d }));
}
