// One request: its figures, the power of its GPUs while it was in flight, and who shared them.

import { ask } from "./api.js";
import * as charts from "./charts.js";
import * as show from "./format.js";
import { facts } from "./panels.js";
import { rowOf } from "./points.js";

const MOST_SHOWN = 25;
const dialog = document.getElementById("detail");
const part = (name) => document.getElementById(`detail-${name}`);

dialog.querySelector(".close").addEventListener("click", () => dialog.close());

/** `project`: whose figures are seen; null: everybody's, and whole GPUs'. */
export async function openDetail(id, project) {
  const [request, beside] = await Promise.all([ask(`energy/requests/${id}`), ask(`energy/points/${id}`, { limit: MOST_SHOWN })]);
  part("title").textContent = `Request ${request.request_id}`;
  facts(part("facts"), factsOf(request));
  if (!dialog.open) dialog.showModal();
  const rows = beside.id.map((_, i) => rowOf(beside, i));
  const { started_at: start, finished_at: end } = request;
  part("about").textContent = company(rows.length - 1, beside.more, request.backend, project);
  charts.drawCompany(part("company"), rows, start, end);
  part("power").hidden = project !== null || request.gpus.length === 0;
  if (!part("power").hidden) charts.drawPower(part("power"), await powerOf(request), start, end);
}

function company(count, more, backend, project) {
  const whose = project === null ? "" : " of your project";
  if (count === 0) return project === null ? "Nobody else was in flight on its backend." : "No other request of your project was in flight on its backend.";
  const others = count === 1 && !more ? "1 other request" : `${show.count(count)}${more ? " and more" : ""} other requests`;
  return `${others}${whose} in flight on ${show.name(backend)} meanwhile.`;
}

function factsOf(request) {
  const uncertainty = request.uncertainty_joules === null ? "" : ` ± ${show.joules(request.uncertainty_joules)}`;
  const between = (from, to) => (from === null || to === null ? null : to - from);
  return [
    ["Energy", show.joules(request.energy_joules) + uncertainty],
    ["Prefill", show.joules(request.prefill_joules)],
    ["Decode", show.joules(request.decode_joules)],
    ["Static share", show.joules(request.static_joules)],
    ["Per output token", show.joules(request.joules_per_output_token)],
    ["Queue", show.seconds(between(request.started_at, request.scheduled_at))],
    ["Prefill time", show.seconds(between(request.scheduled_at, request.first_token_at))],
    ["Decode time", show.seconds(between(request.first_token_at, request.finished_at))],
    ["Tokens in, cached, out", [request.prompt_tokens, request.cached_tokens, request.completion_tokens].map(show.count).join(", ")],
    ["Model", show.name(request.model)],
    ["Tenant", show.name(request.tenant)],
    ["Status", request.error === null ? request.status : `${request.status}: ${request.error}`],
    ["How it was got", `${request.attribution_method}, ${request.meter}${request.simulated ? ", simulated GPU" : ""}`],
    ["State", request.correction_joules === null ? request.state : `${request.state}, corrected by ${show.joules(request.correction_joules)}`],
    ["Not measured", show.seconds(request.unmeasured_seconds)],
    ["joulegate's id", request.id],
  ];
}

/** Mean power of each of its GPUs by interval of the books. */
async function powerOf(request) {
  const margin = 1;
  const times = { start_time: (request.started_at - margin).toFixed(6), end_time: (request.finished_at + margin).toFixed(6), bucket_width_s: 1 };
  const curves = [];
  for (const { gpu } of request.gpus) {
    const rows = (await ask("energy/books", { ...times, gpu })).data.filter((row) => row.measured_uj !== null);
    curves.push({
      name: gpu, x: rows.flatMap((row) => [row.start_time, row.end_time]),
      y: rows.flatMap((row) => Array(2).fill(row.measured_joules / (row.end_time - row.start_time))),
    });
  }
  return curves;
}
