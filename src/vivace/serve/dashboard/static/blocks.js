// The map of the KV blocks: a square for each, or for so many neighbours, filled by what they are.
import { colour, prepared } from "./charts.js";

const KINDS = ["free", "cached", "used", "shared"]; // in the order of the bytes
const DRAWN = ["used", "shared", "cached", "free"]; // from the bottom of a square up
const MAX_SIDE = 15, MIN_SIDE = 5, WANTED_ROWS = 12;

export function decode(map) {
  return Uint8Array.from(atob(map.shares), (letter) => letter.charCodeAt(0));
}

// How many blocks of the kind there are by the map, as near as its cells say.
export function total(shares, map, kind) {
  const offset = KINDS.indexOf(kind);
  let sum = 0;
  for (let at = offset; at < shares.length; at += 4) sum += shares[at];
  return Math.round((sum * map.blocks_per_cell) / 255);
}

export function drawMap(canvas, shares) {
  const number = shares.length / 4, wide = canvas.clientWidth;
  const fit = Math.floor(Math.sqrt((wide * wide * WANTED_ROWS) / (number * 60)));
  const side = Math.max(MIN_SIDE, Math.min(MAX_SIDE, fit));
  const rows = Math.ceil(number / Math.max(1, Math.floor(wide / side)));
  const columns = Math.ceil(number / rows), pitch = Math.min(MAX_SIDE, wide / columns);
  canvas.style.height = `${rows * side}px`;
  const [context] = prepared(canvas, rows * side);
  const colours = Object.fromEntries(KINDS.map((kind) => [kind, colour(kind)]));
  const size = side - (side > 7 ? 2 : 1);
  for (let cell = 0; cell < number; cell += 1) {
    const left = Math.round((cell % columns) * pitch), top = Math.floor(cell / columns) * side;
    let bottom = top + size;
    for (const kind of DRAWN) {
      const high = (size * shares[4 * cell + KINDS.indexOf(kind)]) / 255;
      if (high <= 0) continue;
      context.fillStyle = colours[kind];
      context.fillRect(left, kind === "free" ? top : bottom - high, size, kind === "free" ? bottom - top : high);
      bottom -= high;
    }
  }
}
