// Budgets: what keys, projects and teams may spend in a day and a month, and have spent.

import * as show from "./format.js";
import { make } from "./panels.js";

const MOST_SHOWN = 40;
const NEAR = 0.8; // of a budget

/** One row per budget, the fullest first; then those without one, by what they spent. */
function rowsOf(scopes) {
  const rows = scopes.flatMap((scope) => {
    const { joules_per_day: day, joules_per_month: month } = scope.limits;
    const row = (period, budget, spent) => ({ scope, period, budget, spent, reserved: scope.reserved_joules });
    const budgets = [];
    if (day !== null) budgets.push(row("day", day, scope.spent_joules_day));
    if (month !== null) budgets.push(row("month", month, scope.spent_joules_month));
    return budgets.length ? budgets : [row("month", null, scope.spent_joules_month)];
  });
  const part = (row) => (row.budget === null ? -1 : used(row) / Math.max(row.budget, 1e-9));
  return rows.sort((a, b) => part(b) - part(a) || b.spent - a.spent);
}

const used = (row) => row.spent + row.reserved;

export function showBudgets(scopes) {
  const rows = rowsOf(scopes);
  document.getElementById("budgets-section").hidden = rows.length === 0;
  document.querySelector("#budgets tbody").replaceChildren(...rows.slice(0, MOST_SHOWN).map(line));
  const hidden = rows.length - MOST_SHOWN;
  const more = document.getElementById("budgets-more");
  more.hidden = hidden <= 0;
  more.textContent = `${show.count(hidden)} more that are further from their budgets, or have none.`;
}

function line(row) {
  const { scope, period, budget, spent, reserved } = row;
  const near = budget !== null && used(row) >= NEAR * budget;
  const element = make("tr", null);
  const who = make("td", scope.name === null ? scope.scope : `key ${scope.name}`, { title: scope.scope });
  who.append(make("div", period === "day" ? "today" : "this month", { class: "soft" }));
  const left = budget === null ? null : budget - used(row);
  element.append(who, bar(row, near), joules(spent),
    budget === null ? make("td", "no budget", { class: "n soft" }) : joules(budget), joules(reserved),
    left === null ? make("td", "", { class: "n" }) : joules(left, left <= 0 ? "bad" : ""));
  return element;
}

function joules(value, kind = "") {
  return make("td", show.joules(value), { class: `n ${kind}`, title: `${value} J` });
}

function bar(row, near) {
  const cell = make("td", null);
  if (row.budget === null) return cell;
  const part = row.budget > 0 ? used(row) / row.budget : 1;
  const meter = make("meter", null, { min: 0, max: 1, low: NEAR, high: 0.999, optimum: 0, value: Math.min(part, 1) });
  meter.setAttribute("aria-label", `${show.percent(part)} of the budget`);
  const box = make("div", null, { class: "part" });
  box.append(meter, make("span", show.percent(part), near ? { class: "bad" } : {}));
  cell.append(box);
  return cell;
}
