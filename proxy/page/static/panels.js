// The panels that are text: devices, sums, tables, and the words of the flows.

import * as show from "./format.js";

const byId = (id) => document.getElementById(id);

export function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

export function showDevices(devices) {
  byId("devices").replaceChildren(...devices.map(card));
}

function card(view) {
  const box = make("article", null, { class: view.fault === null ? "card" : "card faulty" });
  box.append(make("h3", `${view.boundary === "host" ? "Host" : show.device(view)}${view.simulated ? " (simulated)" : ""}`));
  const power = show.watts(view.power_watts);
  const limit = view.power_limit_watts;
  box.append(make("div", limit === null ? power : `${power} of ${show.watts(limit)}`, { class: "power" }));
  if (limit !== null && view.power_watts !== null) {
    const bar = make("meter", null, { min: 0, max: limit, high: limit * 0.95, value: view.power_watts });
    bar.setAttribute("aria-label", `${power} of ${show.watts(limit)}`);
    box.append(bar);
  }
  const facts = [view.device, view.node, view.method === "none" ? null : view.method, view.temperature_celsius === null ? null : `${view.temperature_celsius} °C`];
  if (view.clock_reasons?.some((reason) => reason.includes("cap") || reason.includes("thermal"))) facts.push("clocks held down");
  box.append(make("p", facts.filter(Boolean).join(" · "), { class: "soft" }), make("p", view.gpu, { class: "soft" }));
  if (view.fault !== null) box.append(make("p", `Not measured: ${view.fault}`, { class: "fault" }));
  return box;
}

/** `books`: null for those who see no whole GPUs. */
export function showSums(books, rows) {
  const total = books?.total;
  const energy = rows.reduce((sum, row) => sum + (row.energy ?? 0), 0);
  const counted = rows.filter((row) => row.energy !== null && row.completion);
  const tokens = counted.reduce((sum, row) => sum + row.completion, 0);
  const perToken = tokens ? counted.reduce((sum, row) => sum + row.energy, 0) / tokens : null;
  const unknown = rows.filter((row) => row.energy === null && row.status !== "rejected").length;
  const share = (uj) => (total?.measured_uj ? `${show.percent(uj / total.measured_uj)} of it` : null);
  const ofGpus = [
    ["Measured", show.microjoules(total?.measured_uj), "by the GPUs"],
    ["To requests", show.microjoules(total?.requests_uj), share(total?.requests_uj)],
    ["Idle", show.microjoules(total?.idle_uj), share(total?.idle_uj)],
    ["Unobserved work", show.microjoules(total?.unobserved_uj), share(total?.unobserved_uj), total?.unobserved_uj > 0.01 * total?.measured_uj],
    ["Unmeasured", show.microjoules(total?.unmeasured_uj), share(total?.unmeasured_uj), total?.unmeasured_uj > 0],
  ];
  const tiles = [
    ...(books === null ? [] : ofGpus),
    ["Requests finished", show.count(rows.length), unknown ? `${show.count(unknown)} without energy` : null, unknown > 0],
    ["Their energy", show.joules(rows.length ? energy : null)],
    ["Per output token", show.joules(perToken)],
    ...(books === null ? [["Tokens generated", show.count(counted.length ? tokens : null)]] : []),
  ];
  byId("sums").replaceChildren(...tiles.map(([title, text, more, bad]) => {
    const box = make("div", null, bad ? { class: "bad" } : {});
    box.append(make("dt", title), make("dd", text));
    if (more) box.append(make("dd", more, { class: "soft" }));
    return box;
  }));
}

export function showNewest(rows, choose) {
  const newest = rows.slice(-20).reverse();
  byId("newest").tBodies[0].replaceChildren(...newest.map((row) => {
    const line = make("tr", null);
    const open = make("button", show.clock(row.finished), { type: "button", "aria-label": `Request ${row.id}, ended ${show.clock(row.finished)}` });
    open.addEventListener("click", () => choose(row.id));
    const ended = make("td", null);
    ended.append(open);
    const cells = [show.joules(row.energy), show.joules(row.energy !== null && row.completion ? row.energy / row.completion : null),
      show.seconds(row.finished - row.started), show.count(row.prompt), show.count(row.completion)];
    line.append(ended, ...cells.map((text) => make("td", text, { class: "n" })), make("td", show.name(row.model)),
      make("td", show.name(row.tenant)), make("td", row.status, row.status === "ok" ? {} : { class: "bad" }));
    return line;
  }));
}

export function showBooks(books, devices) {
  const named = new Map(devices.map((view) => [view.gpu, show.device(view)]));
  const rows = [...books.data, ...(books.data.length > 1 && books.total ? [books.total] : [])];
  byId("books").tBodies[0].replaceChildren(...rows.map((row) => {
    const line = make("tr", null);
    const figures = [row.measured_uj, row.requests_uj, row.idle_uj, row.unobserved_uj, row.unmeasured_uj];
    line.append(make("td", row.gpu === null ? "All GPUs" : named.get(row.gpu) ?? row.gpu, { title: row.gpu ?? "" }),
      ...figures.map((uj) => make("td", show.microjoules(uj), { class: "n", title: uj === null ? "not known" : `${uj.toLocaleString("en")} µJ` })),
      make("td", show.seconds(row.not_covered_seconds), { class: "n" }),
      make("td", row.balanced ? "to the µJ" : "OUT OF BALANCE", row.balanced ? {} : { class: "bad" }));
    return line;
  }));
  const balanced = books.data.every((row) => row.balanced);
  const lost = devices.filter((view) => view.fault !== null).length;
  if (lost > 0) pill(lost === 1 ? "1 device is not measured" : `${lost} devices are not measured`, "bad");
  else if (books.data.length === 0) pill("no books yet", "");
  else if (balanced) pill("books balance to the µJ", "good");
  else pill("books out of balance", "bad");
}

/** How it stands, at the top. */
export function pill(text, kind) {
  byId("balance").className = `pill ${kind}`;
  byId("balance").textContent = text;
}

/** Links for the picture from flows and books (null: not to be seen), and the same as sentences. Joules. */
export function linksOf(flows, books, devices) {
  const named = new Map(devices.map((view) => [view.gpu, show.device(view)]));
  const deviceOf = (gpu) => `gpu\u0000${named.get(gpu) ?? `GPU …${gpu.slice(-6)}`}`;
  const links = new Map();
  const add = (from, to, joules, kind, model = null) => {
    if (!(joules > 0)) return;
    const key = `${from}\u0001${to}`;
    const link = links.get(key) ?? { from, to, joules: 0, kind, model };
    link.joules += joules;
    links.set(key, link);
  };
  const flowed = new Map();
  for (const flow of flows) {
    const model = `model\u0000${flow.model ?? "no model named"}`;
    add(deviceOf(flow.gpu), model, flow.energy_joules, "model", model);
    add(model, `tenant\u0000${flow.tenant ?? "no tenant"}`, flow.energy_joules, "tenant", model);
    flowed.set(flow.gpu, (flowed.get(flow.gpu) ?? 0) + flow.energy_joules);
  }
  for (const row of (books?.data ?? []).filter((book) => book.boundary === "gpu")) {
    const from = deviceOf(row.gpu);
    add(from, "rest\u0000idle", row.idle_joules, "idle");
    add(from, "rest\u0000unobserved work", row.unobserved_joules, "unobserved");
    add(from, "rest\u0000unmeasured", row.unmeasured_joules, "unmeasured");
    const open = row.requests_joules - (flowed.get(row.gpu) ?? 0);
    if (open > 0.002 * row.requests_joules) add(from, "rest\u0000requests not over yet", open, "open");
  }
  return [...links.values()].sort((a, b) => b.joules - a.joules);
}

export function sayFlows(links) {
  const last = (node) => node.split("\u0000").at(-1);
  byId("flows-text").replaceChildren(...links.map((link) => make("li", `${last(link.from)} to ${last(link.to)}: ${show.joules(link.joules)}`)));
}

export function facts(element, pairs) {
  element.replaceChildren(...pairs.map(([title, text]) => {
    const box = make("div", null);
    box.append(make("dt", title), make("dd", text));
    return box;
  }));
}
