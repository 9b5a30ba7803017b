// Keeps the page up to date: asks every few seconds while it is looked at, draws what changed.

import { ApiError, ask, key } from "./api.js";
import { showBudgets } from "./budgets.js";
import * as charts from "./charts.js";
import { openDetail } from "./detail.js";
import * as panels from "./panels.js";
import { Points } from "./points.js";

const PERIOD_MS = 2000;
const MANY = 20000; // so many points are drawn anew less often: they change little
const MANY_PERIOD_MS = 10000;
const MANY_SCOPES = 500; // likewise of budgets
const WELCOME = "Figures are shown to those with a key. It stays in this tab and is gone when you close it.";
const byId = (id) => document.getElementById(id);
const points = new Points();
let paused = false;
let asking = false;
let first = true;
let scatteredMs = 0;
let who = null; // whose figures are shown: /v1/access
let limits = { data: [] };
let limitsMs = 0;

const windowS = () => Number(byId("window").value);

async function refresh() {
  if (asking || document.hidden || byId("login").open) return;
  asking = true;
  try {
    if (who === null) welcome(await ask("access"));
    const since = { start_time: (Date.now() / 1000 - windowS()).toFixed(6) };
    const [devices, books, flows, changed] = await Promise.all([
      who.admin ? ask("energy/devices") : { data: [] }, who.admin ? ask("energy/books", since) : null,
      ask("energy/flows", since), points.update(windowS()), updateLimits(),
    ]);
    draw(devices.data, books, flows.data, changed);
    byId("trouble").hidden = true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    trouble(error);
  } finally {
    asking = false;
  }
}

/** Make the page that of whoever looks: what only the admin may see is not there for others. */
function welcome(answer) {
  who = answer;
  for (const element of document.querySelectorAll(".whole")) element.hidden = !who.admin;
  byId("leave").hidden = !who.keys;
  byId("who").hidden = !who.keys;
  byId("who").textContent = who.admin ? "admin" : `project ${who.project}`;
  byId("who").title = who.admin ? "sees everything" : `key ${who.name} (${who.key})`;
  byId("flows-about").textContent = who.admin
    ? "From GPU to model to tenant. Idle is what was drawn with nothing in flight."
    : "What requests of your project took: from GPU to model to whoever is charged.";
}

async function updateLimits() {
  if (!who.keys || (limits.data.length > MANY_SCOPES && Date.now() - limitsMs < MANY_PERIOD_MS)) return;
  limits = await ask("limits");
  limitsMs = Date.now();
}

function draw(devices, books, flows, changed) {
  const { rows } = points;
  byId("content").hidden = false;
  panels.showDevices(devices);
  if (books === null) panels.pill("up to date", "good");
  else panels.showBooks(books, devices);
  panels.showSums(books, rows);
  showBudgets(limits.data);
  const links = panels.linksOf(flows, books, devices);
  charts.drawFlows(byId("flows"), links);
  panels.sayFlows(links);
  byId("empty").hidden = rows.length > 0;
  for (const element of document.querySelectorAll(".of-requests")) element.hidden = rows.length === 0;
  if (rows.length > 0 && (changed || first)) {
    panels.showNewest(rows, choose);
    charts.drawRate(byId("rate"), rows, windowS());
  }
  const due = rows.length < MANY || Date.now() - scatteredMs > MANY_PERIOD_MS;
  if (rows.length > 0 && (first || (changed && due))) {
    scatteredMs = Date.now();
    const drawn = rows.slice(-Math.min(charts.MOST_POINTS, rows.length));
    charts.drawScatter(byId("scatter"), drawn, choose);
    const which = points.more || drawn.length < rows.length ? `The newest ${drawn.length.toLocaleString("en")} requests. ` : "";
    byId("scatter-about").textContent = `${which}Choose one to see what became of it.`;
  }
  first = false;
  document.body.dataset.drawn = String(rows.length);
}

function choose(id) {
  openDetail(id, who.project).catch((error) => {
    if (!(error instanceof ApiError)) throw error;
    trouble(error);
  });
}

function trouble(error) {
  if (error.status === 401 || error.status === 403) {
    if (key.get() !== null) {
      key.refuse(error.message);
      location.reload(); // nothing of what one key saw stays for the next
      return;
    }
    const refusal = key.refusal();
    byId("login-why").textContent = refusal === null ? WELCOME : `That key was refused: ${refusal}`;
    byId("login-why").classList.toggle("bad", refusal !== null);
    panels.pill("a key is needed", "");
    if (!byId("login").open) byId("login").showModal();
    return;
  }
  byId("trouble").textContent = `These figures are not up to date: ${error.message}.`;
  byId("trouble").hidden = false;
  panels.pill(error.status === 0 ? "not connected" : "figures are away", "bad");
}

byId("login").addEventListener("close", () => {
  if (byId("key").value) key.set(byId("key").value.trim());
  byId("key").value = "";
  refresh();
});
byId("leave").addEventListener("click", () => {
  key.forget();
  location.reload();
});
byId("window").addEventListener("change", () => {
  points.clear();
  first = true;
  refresh();
});
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Go on" : "Pause";
});
document.addEventListener("visibilitychange", refresh);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  first = true;
  refresh();
});
byId("hint").textContent = `export OPENAI_BASE_URL=${location.origin}/v1`;
setInterval(() => paused || refresh(), PERIOD_MS);
addEventListener("load", refresh);
