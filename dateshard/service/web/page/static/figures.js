// Writes figures as people read them. An unknown one is a dash.

export const DASH = "–";

export function figure(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(digits)));
}

export function bytes(value) {
  if (value === null || value === undefined) return DASH;
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= size) return `${(value / size).toFixed(value >= 100 * size ? 0 : 1)} ${unit}`;
  }
  return `${value} B`;
}

export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  if (value < 10) return `${value.toFixed(value < 1 ? 2 : 1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

export function moment(text) {
  return text ? text.slice(0, 19).replace("T", " ") : DASH;
}

export const STATES = {
  queued: ["○", "Queued"],
  starting: ["◐", "Starting"],
  running: ["●", "Running"],
  pausing: ["◐", "Pausing"],
  paused: ["‖", "Paused"],
  stopping: ["◐", "Stopping"],
  stopped: ["■", "Stopped"],
  interrupted: ["!", "Interrupted"],
  failed: ["×", "Failed"],
  completed: ["✓", "Completed"],
  early_stopped: ["✓", "Early stopped"],
};
export const AT_REST = ["paused", "stopped", "interrupted", "failed", "completed", "early_stopped"];

export function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
