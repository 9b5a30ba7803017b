// The requests of the chosen time, kept in columns and brought up to date with what is new.

import { ask } from "./api.js";

const LIMIT = 100000;
const LATE_S = 30; // a request is stored some seconds after its end, so the last ones are asked for again

export class Points {
  constructor() {
    this.clear();
  }

  clear() {
    this.rows = []; // newest last
    this.known = new Map();
    this.more = false;
  }

  /** Fetch what ended since the last time and forget what left the window. Whether anything changed. */
  async update(windowS) {
    const now = Date.now() / 1000;
    const start = now - windowS;
    const last = this.rows.at(-1)?.finished;
    const from = last === undefined ? start : Math.max(start, last - LATE_S);
    const { rows } = this;
    const answer = await ask("energy/points", { start_time: from.toFixed(6), limit: LIMIT });
    if (this.rows !== rows) return false; // another window was chosen meanwhile
    if (last === undefined) this.more = answer.more;
    let changed = false;
    for (let i = answer.id.length - 1; i >= 0; i--) {
      changed = this.#take(answer, i) || changed;
    }
    if (changed) this.rows.sort((a, b) => a.finished - b.finished);
    const gone = this.rows.findIndex((row) => row.finished >= start);
    const drop = gone < 0 ? this.rows.length : gone;
    for (const row of this.rows.splice(0, drop)) this.known.delete(row.id);
    return changed || drop > 0;
  }

  #take(answer, i) {
    const row = rowOf(answer, i);
    const old = this.known.get(row.id);
    if (old !== undefined) {
      const corrected = old.energy !== row.energy;
      Object.assign(old, row);
      return corrected;
    }
    this.known.set(row.id, row);
    this.rows.push(row);
    return true;
  }
}

/** One request of an answer in columns. Energy in joules, times in unix seconds; null: not known. */
export function rowOf(answer, i) {
  const energy = answer.energy_uj[i];
  return {
    id: answer.id[i],
    started: answer.started_at[i],
    scheduled: answer.scheduled_at[i],
    first: answer.first_token_at[i],
    finished: answer.finished_at[i],
    energy: energy === null ? null : energy / 1e6,
    prompt: answer.prompt_tokens[i],
    completion: answer.completion_tokens[i],
    model: answer.names[answer.models[i]],
    tenant: answer.names[answer.tenants[i]],
    backend: answer.names[answer.backends[i]],
    status: answer.names[answer.statuses[i]],
  };
}
