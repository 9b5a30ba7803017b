// The pictures: Plotly with our colours. Each function draws or redraws one element.

import * as show from "./format.js";

const SERIES = ["#d1730f", "#2f7ed8", "#3a9d5d", "#a65ac1", "#c8425a", "#0f9ba8", "#8a7a1f", "#6b7280"];
const MOST_SERIES = SERIES.length;

function faint(hex, alpha) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${red}, ${green}, ${blue}, ${alpha})`;
}
const CONFIG = {
  displaylogo: false, responsive: true, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]],
  displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
};
const BESIDE = 92; // left of charts that stand one above the other, on one time axis

// Where there is no WebGL, SVG draws fewer points than stay fluid.
const WEBGL = document.createElement("canvas").getContext("webgl") !== null;
export const MOST_POINTS = WEBGL ? Infinity : 3000;

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function layout(more = {}) {
  const axis = { gridcolor: style("--line"), zerolinecolor: style("--line"), automargin: true };
  return {
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", margin: { l: 50, r: 10, t: 10, b: 40 },
    font: { color: style("--ink"), family: "system-ui, sans-serif", size: 13 },
    modebar: { bgcolor: "transparent", color: style("--soft"), activecolor: style("--ink") },
    legend: { orientation: "h", y: 1.12 }, hovermode: "closest", uirevision: "kept", ...more,
    xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
  };
}

/** Names in order of their energy; those beyond the colours together as "other". */
function groups(rows) {
  const energy = new Map();
  for (const row of rows) energy.set(row.model, (energy.get(row.model) ?? 0) + (row.energy ?? 0));
  const names = [...energy.keys()].sort((a, b) => energy.get(b) - energy.get(a));
  const kept = names.slice(0, names.length > MOST_SERIES ? MOST_SERIES - 1 : MOST_SERIES);
  return { names: kept.length < names.length ? [...kept, "other"] : kept, of: (name) => (kept.includes(name) ? name : "other") };
}

export function drawRate(element, rows, windowS) {
  const width = Math.max(windowS / 90, 2);
  const { names, of } = groups(rows);
  const sums = new Map(names.map((name) => [name, new Map()]));
  for (const row of rows) {
    if (row.energy === null || !row.completion) continue;
    const buckets = sums.get(of(row.model));
    const at = Math.floor(row.finished / width) * width;
    const sum = buckets.get(at) ?? [0, 0];
    buckets.set(at, [sum[0] + row.energy, sum[1] + row.completion]);
  }
  const traces = names.map((name, i) => {
    const buckets = [...sums.get(name)].sort((a, b) => a[0] - b[0]);
    return {
      type: "scatter", mode: "lines+markers", name: show.name(name), line: { color: SERIES[i], width: 2 }, marker: { size: 5 },
      x: buckets.map(([at]) => new Date((at + width / 2) * 1000)), y: buckets.map(([, [j, tokens]]) => j / tokens),
      hovertemplate: "%{y:.3g} J/token<br>%{x|%H:%M:%S}<extra>%{fullData.name}</extra>",
    };
  });
  Plotly.react(element, traces, layout({ yaxis: { title: { text: "J / token" }, rangemode: "tozero" } }), CONFIG);
}

/** Ticks at 1, 2 and 5 of each decade, or only at 1 where there are many. */
function logAxis(values, text) {
  const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  const decades = values.length ? Math.log10(high / low) : 0;
  const tickvals = [];
  for (let power = -9; power <= 9; power++) {
    for (const digit of decades < 2.5 ? [1, 2, 5] : [1]) tickvals.push(digit * 10 ** power);
  }
  return { type: "log", tickvals, ticktext: tickvals.map(text), tickfont: { size: 11 } };
}

export function drawScatter(element, rows, choose) {
  const { names, of } = groups(rows);
  const traces = names.map((name, i) => {
    const mine = rows.filter((row) => of(row.model) === name && row.energy > 0 && row.finished > row.started);
    return {
      type: WEBGL ? "scattergl" : "scatter", mode: "markers", name: show.name(name), marker: { color: SERIES[i], size: 6, opacity: 0.55 },
      x: mine.map((row) => row.finished - row.started), y: mine.map((row) => row.energy), customdata: mine.map((row) => row.id),
      hovertemplate: "%{x:.3g} s, %{y:.3g} J<extra>%{fullData.name}</extra>",
    };
  });
  const axes = { xaxis: logAxis(traces.flatMap((trace) => trace.x), show.seconds), yaxis: logAxis(traces.flatMap((trace) => trace.y), show.joules) };
  Plotly.react(element, traces, layout(axes), CONFIG);
  if (!element.dataset.heard) {
    element.dataset.heard = "yes";
    element.on("plotly_click", (event) => choose(event.points[0].customdata));
  }
}

/** `links`: [{from, to, joules, kind}]; nodes are named by the ends. */
export function drawFlows(element, links) {
  const nodes = [...new Set(links.flatMap((link) => [link.from, link.to]))];
  const named = { idle: "--idle", unobserved: "--unobserved", unmeasured: "--unmeasured", open: "--soft" };
  const models = [...new Set(links.map((link) => link.model).filter(Boolean))];
  const colour = (link) => faint(named[link.kind] ? style(named[link.kind]) : SERIES[models.indexOf(link.model) % MOST_SERIES], 0.45);
  const trace = {
    type: "sankey", arrangement: "snap", valueformat: ".4s", valuesuffix: "J",
    node: { label: nodes.map((node) => node.split("\u0000").at(-1)), color: nodes.map(() => style("--soft")), pad: 14, thickness: 14 },
    link: {
      source: links.map((link) => nodes.indexOf(link.from)), target: links.map((link) => nodes.indexOf(link.to)),
      value: links.map((link) => link.joules), color: links.map(colour),
    },
  };
  const flat = links.length < 3;
  const resized = element.classList.contains("flat") !== flat;
  element.classList.toggle("flat", flat);
  if (resized && element.data) Plotly.Plots.resize(element);
  Plotly.react(element, links.length ? [trace] : [], layout({ margin: { l: 10, r: 10, t: 10, b: 10 } }), { ...CONFIG, displayModeBar: false });
}

const below = { legend: { orientation: "h", y: 1, yanchor: "bottom" } };

/** `curves`: [{name, x: [unix s], y: [W]}], drawn as steps. */
export function drawPower(element, curves, start, end) {
  const traces = curves.map((curve, i) => ({
    type: "scatter", mode: "lines", name: curve.name, line: { shape: "hv", color: SERIES[i % MOST_SERIES], width: 2 },
    x: curve.x.map((t) => t - start), y: curve.y, hovertemplate: "%{y:.3s}W<extra>%{fullData.name}</extra>",
  }));
  const range = [-(end - start) * 0.03, (end - start) * 1.03];
  Plotly.react(element, traces, layout({ margin: { l: BESIDE, r: 10, t: 25, b: 25 }, ...below, xaxis: { range, ticksuffix: " s" }, yaxis: { title: { text: "W", standoff: 5 }, rangemode: "tozero", automargin: false } }), { ...CONFIG, displayModeBar: false });
}

/** The request (first of `rows`) and those beside it, as bars: to the first token, then decode. */
export function drawCompany(element, rows, start, end) {
  const label = (row, i) => (i === 0 ? "this request" : `…${row.id.slice(-6)}`); // ids of one time begin alike
  const names = rows.map(label);
  const bar = (name, colour, begin, until) => ({
    type: "bar", orientation: "h", name, y: names, marker: { color: colour }, base: rows.map((row) => begin(row) - start),
    x: rows.map((row) => Math.max(until(row) - begin(row), 0)), hovertemplate: "%{x:.3g} s<extra>%{y}: " + name + "</extra>",
  });
  const first = (row) => row.first ?? row.finished;
  const known = (row) => row.scheduled ?? first(row); // of images and videos it is not
  const traces = [
    bar("queue", "#8a8f98", (row) => row.started, (row) => row.scheduled ?? row.started),
    bar("prefill", style("--energy"), known, first),
    bar("not told apart", "#7b5ea7", (row) => row.started, (row) => (row.scheduled === null ? first(row) : row.started)),
    bar("decode", "#2f7ed8", first, (row) => row.finished),
  ];
  const range = [-(end - start) * 0.03, (end - start) * 1.03];
  element.style.height = `${Math.max(8, 4 + rows.length * 1.2)}rem`;
  Plotly.react(element, traces, layout({ margin: { l: BESIDE, r: 10, t: 25, b: 25 }, ...below, barmode: "overlay", xaxis: { range, ticksuffix: " s" }, yaxis: { autorange: "reversed", type: "category", automargin: false } }), { ...CONFIG, displayModeBar: false });
}
