// The OpenAPI document as a page, with forms to try each route.

import { h, link } from "./dom.js";

const api = await (await fetch("/openapi.json")).json();
const named = (schema) => schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema;
const unwrap = (schema) => named(schema?.anyOf ? schema.anyOf.find((one) => one.type !== "null") : schema) ?? {};

function type(schema) {
  if (schema?.$ref) return schema.$ref.split("/").pop();
  if (schema?.anyOf) return schema.anyOf.map(type).join(" | ");
  if (schema?.type === "array") return `${type(schema.items ?? {})}[]`;
  if (schema?.additionalProperties && schema.additionalProperties !== true) return `{name: ${type(schema.additionalProperties)}}`;
  return schema?.type ?? "any";
}

function input(parameter, id) {
  const schema = unwrap(parameter.schema);
  if (!schema.enum) return h("input", { id, name: parameter.name, type: schema.type === "integer" ? "number" : "text", placeholder: parameter.schema.default ?? "" });
  return h("select", { id, name: parameter.name }, h("option", { value: "" }, `(${parameter.schema.default ?? "none"})`), schema.enum.map((one) => h("option", { value: one }, one)));
}

// Only what asks for something can be tried here; the page changes nothing.
function route(path, method, it) {
  const parameters = it.parameters ?? [];
  const out = h("pre", { class: "scroll", tabindex: 0, hidden: true, "aria-label": `Answer of ${path}` });
  const form = h("form", { class: "tools" }, parameters.map((parameter, i) => {
    const id = `${it.operationId}-${i}`;
    return h("label", { for: id, title: parameter.description ?? "" }, `${parameter.name} `, input(parameter, id));
  }), h("button", { type: "submit" }, "Ask"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let where = path;
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(form)) {
      if (where.includes(`{${name}}`)) where = where.replace(`{${name}}`, encodeURIComponent(value));
      else if (value) query.set(name, value);
    }
    const address = query.size ? `${where}?${query}` : where;
    out.hidden = false;
    if (path === "/api/stream") { out.replaceChildren("open ", link(address, address)); return; }
    const response = await fetch(address);
    const text = await response.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 1); } catch { /* not JSON */ }
    out.replaceChildren(`${response.status} ${address}\n\n${shown.slice(0, 20000)}`);
  });
  const answer = it.responses["200"]?.content?.["application/json"]?.schema;
  return h("section", { class: "api", id: it.operationId },
    h("h3", null, `${method.toUpperCase()} ${path}`), h("p", null, it.summary ?? ""),
    h("dl", { class: "pairs" }, parameters.map((p) => [h("dt", null, p.name), h("dd", null, `${type(p.schema)}${p.required ? ", required" : ""}. ${p.description ?? ""}`)]), answer && [h("dt", null, "answer"), h("dd", null, answer.$ref ? link(`#${type(answer)}`, type(answer)) : type(answer))]),
    method === "get" && [form, out]);
}

function model(name, schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([key, one]) => [h("dt", null, key), h("dd", null, `${type(one)}. ${one.description ?? ""}`)]);
  return h("section", { class: "api", id: name }, h("h3", null, name), h("p", null, schema.description ?? ""), schema.enum ? h("p", null, schema.enum.join(", ")) : h("dl", { class: "pairs" }, rows));
}

document.getElementById("view").replaceChildren(
  h("p", null, api.info.description),
  h("h2", null, "Routes"),
  ...Object.entries(api.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, it]) => route(path, method, it))),
  h("h2", null, "What answers hold"),
  ...Object.entries(api.components.schemas).filter(([name]) => !name.includes("Validation")).map(([name, schema]) => model(name, schema)));
