// Figures as people read them. What is not known is a dash, never 0.

const UNKNOWN = "–";

function scaled(value, unit, steps) {
  if (value === null || value === undefined) return UNKNOWN;
  const size = Math.abs(value);
  for (const [from, prefix] of steps) {
    if (size >= from) return `${round(value / from)} ${prefix}${unit}`;
  }
  return size === 0 ? `0 ${unit}` : `${round(value / steps.at(-1)[0])} ${steps.at(-1)[1]}${unit}`;
}

function round(value) {
  return value.toLocaleString("en", { maximumSignificantDigits: 3, useGrouping: false });
}

export const joules = (value) => scaled(value, "J", [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"]]);
export const microjoules = (value) => joules(value === null || value === undefined ? null : value / 1e6);
export const watts = (value) => scaled(value, "W", [[1e3, "k"], [1, ""]]);
export const seconds = (value) => scaled(value, "s", [[1, ""], [1e-3, "m"], [1e-6, "µ"]]);
export const count = (value) => (value === null || value === undefined ? UNKNOWN : value.toLocaleString("en"));
export const percent = (value) => (value === null || Number.isNaN(value) ? UNKNOWN : `${round(100 * value)} %`);
export const clock = (unix) => new Date(unix * 1000).toLocaleTimeString();
export const name = (text) => text ?? UNKNOWN;
export const device = (view) => (view.index === null ? view.gpu : `GPU ${view.index}`);
