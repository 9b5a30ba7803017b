// Keeps the page up to date: asks every few seconds while it is looked at, draws what changed.

import { ApiError, ask, key } from "./api.js";
import * as charts from "./charts.js";
import { openDetail } from "./detail.js";
import * as panels from "./panels.js";
import { Points } from "./points.js";

const PERIOD_MS = 2000;
const MANY = 20000; // so many points are drawn anew less often: they change little
const MANY_PERIOD_MS = 10000;
const byId = (id) => document.getElementById(id);
const points = new Points();
let paused = false;
let asking = false;
let first = true;
let scatteredMs = 0;

const windowS = () => Number(byId("window").value);

async function refresh() {
  if (asking || document.hidden || byId("login").open) return;
  asking = true;
  try {
    const since = { start_time: (Date.now() / 1000 - windowS()).toFixed(6) };
    const [devices, books, flows, changed] = await Promise.all([
      ask("devices"), ask("books", since), ask("flows", since), points.update(windowS()),
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

function draw(devices, books, flows, changed) {
  const { rows } = points;
  panels.showDevices(devices);
  panels.showBooks(books, devices);
  panels.showSums(books.total, rows);
  const links = panels.linksOf(flows, books, devices);
  charts.drawFlows(byId("flows"), links);
  panels.sayFlows(links);
  byId("empty").hidden = rows.length > 0;
  if (changed || first) {
    panels.showNewest(rows, choose);
    charts.drawRate(byId("rate"), rows, windowS());
  }
  if (first || (changed && (rows.length < MANY || Date.now() - scatteredMs > MANY_PERIOD_MS))) {
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
  openDetail(id).catch((error) => {
    if (!(error instanceof ApiError)) throw error;
    trouble(error);
  });
}

function trouble(error) {
  if (error.status === 401 || error.status === 403) {
    byId("login-why").textContent = key.get() ? `That key was refused: ${error.message}` : byId("login-why").textContent;
    key.forget();
    if (!byId("login").open) byId("login").showModal();
    return;
  }
  byId("trouble").textContent = `These figures are not up to date: ${error.message}.`;
  byId("trouble").hidden = false;
  byId("balance").className = "pill bad";
  byId("balance").textContent = error.status === 0 ? "not connected" : "figures are away";
}

byId("login").addEventListener("close", () => {
  if (byId("key").value) key.set(byId("key").value.trim());
  byId("key").value = "";
  byId("leave").hidden = !key.get();
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
byId("leave").hidden = !key.get();
setInterval(() => paused || refresh(), PERIOD_MS);
addEventListener("load", refresh);
