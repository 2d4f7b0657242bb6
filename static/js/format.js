// Figures as controlplane/pages/tags.py writes them.

export const DASH = "–";

export function number(value) {
  if (value === null || value === undefined || value === "") return null;
  const found = Number(value);
  return Number.isFinite(found) ? found : null;
}

export function count(value) {
  const found = number(value);
  return found === null ? DASH : Math.round(found).toLocaleString("en-US");
}

export function figure(value, digits = 4) {
  if (value === "NaN" || value === "Infinity" || value === "-Infinity") return value;
  const found = number(value);
  if (found === null) return DASH;
  const size = Math.abs(found);
  if (found !== 0 && (size < 1e-3 || size >= 1e9)) return found.toExponential(Math.max(digits - 2, 1));
  if (size >= 1000 || Number.isInteger(found)) return Math.round(found).toLocaleString("en-US");
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return found.toFixed(Math.min(decimals, digits));
}

function scaled(value, step, units) {
  let found = number(value);
  if (found === null) return DASH;
  let rank = 0;
  while (Math.abs(found) >= step && rank < units.length - 1) { found /= step; rank += 1; }
  return `${rank === 0 || found >= 100 ? Math.round(found) : found.toFixed(1)} ${units[rank]}`;
}

export const filesize = (value) => scaled(value, 1000, ["B", "kB", "MB", "GB", "TB"]);

export function gib(value) {
  const found = number(value);
  return found === null ? DASH : (found / 2 ** 30).toFixed(1);
}

export function duration(seconds) {
  const found = number(seconds);
  if (found === null) return DASH;
  const whole = Math.max(0, Math.round(found)); // a clock may have run backwards between begin and end
  const hours = Math.floor(whole / 3600), minutes = Math.floor((whole % 3600) / 60), rest = whole % 60;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${rest} s` : `${rest} s`;
}

export function ago(date, now = Date.now()) {
  const seconds = (now - date.getTime()) / 1000;
  const size = Math.abs(seconds);
  if (size < 5) return "just now";
  const [unit, name] = size < 60 ? [1, "s"] : size < 3600 ? [60, "min"] : size < 86400 ? [3600, "h"] : [86400, "d"];
  const amount = `${Math.floor(size / unit)} ${name}`;
  return seconds > 0 ? `${amount} ago` : `in ${amount}`;
}

// The path of a line through values in a box of width by height; nulls break it.
export function sparkPath(values, width = 240, height = 34, low = null, high = null) {
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return "";
  const bottom = low ?? Math.min(...known), top = high ?? Math.max(...known);
  const span = top - bottom || 1;
  let path = "", pen = "M";
  values.forEach((value, index) => {
    if (value === null) { pen = "M"; return; }
    const x = (index * width) / (values.length - 1);
    const y = height - 2 - ((value - bottom) / span) * (height - 4);
    path += `${pen}${x.toFixed(1)},${y.toFixed(1)}`;
    pen = "L";
  });
  return path;
}

// How far a clock is from another, before the other's name.
export function skew(seconds) {
  const found = number(seconds);
  if (found === null) return DASH;
  const size = Math.abs(found);
  if (size < 0.1) return "in step with";
  return `${size >= 60 ? duration(size) : `${size.toFixed(1)} s`} ${found > 0 ? "ahead of" : "behind"}`;
}

// The path of a line through [[time, value]] between two times; a null, or time that nobody measured, breaks it.
export function timePath(points, from, to, { width = 240, height = 34, low = null, high = null, gap = 8 } = {}) {
  const known = points.filter(([, value]) => value !== null).map(([, value]) => value);
  if (known.length < 2) return "";
  const bottom = low ?? Math.min(...known), top = high ?? Math.max(...known, bottom + 1e-9);
  let path = "", last = null;
  for (const [time, value] of points) {
    if (value === null) { last = null; continue; }
    const x = ((time - from) / (to - from)) * width;
    const share = Math.min(1, Math.max(0, (value - bottom) / (top - bottom || 1)));
    path += `${last !== null && time - last <= gap ? "L" : "M"}${x.toFixed(1)},${(height - 2 - share * (height - 4)).toFixed(1)}`;
    last = time;
  }
  return path;
}
