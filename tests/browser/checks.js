() => {
  const wrong = [];
  const say = (what, e) => wrong.push(`${what}: ${e.outerHTML.slice(0, 140)}`);
  const visible = (e) => e.getClientRects().length > 0 && getComputedStyle(e).visibility !== "hidden";
  const name = (e) => (e.getAttribute("aria-label") ?? "").trim() || (e.getAttribute("title") ?? "").trim()
    || e.textContent.trim() || [...(e.labels ?? [])].map((l) => l.textContent.trim()).join("");
  if (!document.documentElement.lang) wrong.push("no lang");
  if (!document.title) wrong.push("no title");
  if (document.querySelectorAll("h1").length !== 1) wrong.push("not one h1");
  if (document.querySelectorAll("main").length !== 1) wrong.push("not one main");
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  ids.filter((id, i) => ids.indexOf(id) !== i).forEach((id) => wrong.push(`id twice: ${id}`));
  let before = 0;
  for (const e of document.querySelectorAll("h1, h2, h3, h4")) {
    if (!visible(e)) continue;
    const level = Number(e.tagName[1]);
    if (before && level > before + 1) say("heading skips a level", e);
    before = level;
  }
  for (const e of document.querySelectorAll("a[href], button, summary")) if (visible(e) && !name(e)) say("no name", e);
  for (const e of document.querySelectorAll("input, select, textarea"))
    if (visible(e) && !(e.labels?.length || e.getAttribute("aria-label"))) say("no label", e);
  for (const e of document.querySelectorAll("[role=img], img, canvas")) if (!name(e) && !e.getAttribute("alt")) say("no text for an image", e);
  for (const e of document.querySelectorAll("nav, [role=region], dialog")) if (!name(e) && !e.getAttribute("aria-labelledby")) say("no name", e);
  for (const e of document.querySelectorAll("table")) if (!e.querySelector("thead th[scope=col]")) say("no head", e);
  for (const e of document.querySelectorAll("[aria-hidden=true]")) if (e.querySelector("a, button, input")) say("hidden but operable", e);
  for (const e of document.querySelectorAll("[tabindex]")) if (Number(e.getAttribute("tabindex")) > 0) say("tabindex", e);
  for (const e of document.querySelectorAll("button, select, input, nav a"))
    if (visible(e)) { const box = e.getBoundingClientRect(); if (box.height < 23.5 || box.width < 23.5) say("smaller than 24 px", e); }

  const channel = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = (text) => text.match(/[\d.]+/g).map(Number);
  const back = (e) => {
    for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0.99) return c; }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  for (let node; (node = walker.nextNode());) {
    const e = node.parentElement;
    if (!node.textContent.trim() || seen.has(e) || !visible(e) || e.closest("script, style, noscript, option")) continue;
    seen.add(e);
    const style = getComputedStyle(e), a = light(parse(style.color)), b = light(back(e));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    if (contrast < (large ? 3 : 4.5)) say(`contrast ${contrast.toFixed(2)}`, e);
  }
  if (document.documentElement.scrollWidth > innerWidth + 1) wrong.push(`wider than the window: ${document.documentElement.scrollWidth}`);
  return wrong;
}
