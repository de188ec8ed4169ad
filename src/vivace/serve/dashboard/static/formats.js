// Numbers as people read them.
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(value) {
  return whole.format(value);
}

// Three digits: 4.21, 42.1, 421, 4,210.
export function figure(value) {
  if (value === 0) return "0";
  const digits = Math.abs(value) < 10 ? 2 : Math.abs(value) < 100 ? 1 : 0;
  return value >= 1000 ? count(value) : value.toFixed(digits);
}

export function percent(share) {
  return `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;
}

// [number, unit]
export function duration(seconds) {
  if (seconds < 1) return [figure(1000 * seconds), "ms"];
  return seconds < 120 ? [figure(seconds), "s"] : [figure(seconds / 60), "min"];
}

export function span(seconds) {
  return duration(seconds).join(" ");
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let index = 0;
  while (number >= 1024 && index < units.length - 1) {
    number /= 1024;
    index += 1;
  }
  return `${figure(number)} ${units[index]}`;
}

export function clock(seconds) {
  const hours = Math.floor(seconds / 3600), minutes = Math.floor(seconds / 60) % 60;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${Math.floor(seconds) % 60} s` : `${Math.floor(seconds)} s`;
}

// One with its noun: "1 request", "2 requests".
export function many(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}
