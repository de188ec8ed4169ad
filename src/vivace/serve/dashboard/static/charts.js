// Drawings on a canvas, in the page's colours; the newest point is at the right edge.
import { count } from "./formats.js";

// A canvas of its size on the screen, cleared: [context, width, height], in CSS pixels.
export function prepared(canvas, height = canvas.clientHeight) {
  const width = canvas.clientWidth, scale = window.devicePixelRatio || 1;
  const wide = Math.round(width * scale), high = Math.round(height * scale);
  if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return [context, width, height];
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// The next of 1, 2, 4, 6, 8, 10, 20, ...
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((top) => top >= value);
}

// values: [seconds ago, number or null], oldest first.
export function sparkline(canvas, values, span, colourName) {
  const [context, width, height] = prepared(canvas);
  const top = Math.max(...values.map(([, value]) => value ?? 0));
  context.strokeStyle = colour("grid");
  context.beginPath();
  context.moveTo(0, height - 0.5);
  context.lineTo(width, height - 0.5);
  context.stroke();
  if (!(top > 0)) return;
  context.strokeStyle = context.fillStyle = colour(colourName);
  context.lineWidth = 1.6;
  context.lineJoin = "round";
  for (const run of runs(values)) {
    const at = run.map(([ago, value]) => [width * (1 - ago / span), height - 1.5 - (height - 5) * (value / top)]);
    context.beginPath();
    for (const [x, y] of at) context.lineTo(x, y);
    if (at.length === 1) context.arc(at[0][0], at[0][1], 1, 0, 7);
    context.stroke();
    context.globalAlpha = 0.13;
    context.lineTo(at.at(-1)[0], height);
    context.lineTo(at[0][0], height);
    context.fill();
    context.globalAlpha = 1;
  }
}

// Stretches without a gap.
function runs(values) {
  const found = [];
  let run = null;
  for (const value of values) {
    if (value[1] === null) run = null;
    else if (run) run.push(value);
    else found.push((run = [value]));
  }
  return found;
}

// points: {ago, parts: [numbers]}, oldest first; one colour for each part, the first one below.
export function stackedAreas(canvas, points, span, colours) {
  const [context, width, height] = prepared(canvas);
  const left = 44, bottom = height - 20, room = bottom - 8;
  const top = niceTop(Math.max(4, ...points.map(({ parts }) => parts.reduce((sum, part) => sum + part, 0))));
  const x = (ago) => left + (width - left) * (1 - ago / span);
  const y = (value) => bottom - (room * value) / top;
  axes(context, width, height, left, bottom, top, span, x, y);
  context.save();
  context.beginPath();
  context.rect(left, 0, width - left, bottom);
  context.clip();
  let below = points.map(() => 0);
  colours.forEach((name, index) => {
    const above = points.map(({ parts }, number) => below[number] + parts[index]);
    context.fillStyle = colour(name);
    context.beginPath();
    points.forEach(({ ago }, number) => context.lineTo(x(ago), y(above[number])));
    for (let number = points.length - 1; number >= 0; number -= 1) context.lineTo(x(points[number].ago), y(below[number]));
    context.fill();
    below = above;
  });
  context.restore();
}

function axes(context, width, height, left, bottom, top, span, x, y) {
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = colour("soft");
  context.strokeStyle = colour("grid");
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const value of [0, top / 2, top]) {
    context.fillText(count(value), left - 8, y(value));
    context.beginPath();
    context.moveTo(left, Math.round(y(value)) + 0.5);
    context.lineTo(width, Math.round(y(value)) + 0.5);
    context.stroke();
  }
  context.textBaseline = "alphabetic";
  const step = width < 480 ? 60 : 30;
  for (let ago = 0; ago <= span; ago += step) {
    context.textAlign = ago === 0 ? "right" : ago === span ? "left" : "center";
    context.fillText(ago ? `−${ago} s` : "now", x(ago), height - 4);
  }
}
