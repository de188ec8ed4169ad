// The states of the last two minutes, and what lies between two of them.
export const SPAN_S = 120;

export class History {
  states = [];
  points = []; // one for each state but the first: what went on since the state before

  add(state) {
    const last = this.states.at(-1);
    if (last && (last.started_s !== state.started_s || state.time_s < last.time_s)) this.clear(); // another server
    if (this.states.length && state.time_s > this.states.at(-1).time_s) this.points.push(point(this.states.at(-1), state));
    else if (this.states.length) return;
    this.states.push(state);
    while (state.time_s - this.states[0].time_s > SPAN_S) this.states.shift();
    while (this.points.length && state.time_s - this.points[0].time_s > SPAN_S) this.points.shift();
  }

  clear() {
    this.states = [];
    this.points = [];
  }

  get now() {
    return this.states.at(-1);
  }

  // The state `seconds` ago, or the oldest there is.
  ago(seconds) {
    const time = this.now.time_s - seconds;
    return this.states.findLast((state) => state.time_s <= time) ?? this.states[0];
  }

  // Counts by bucket, number and sum of a latency in the last `seconds`.
  latency(name, seconds) {
    return difference(this.ago(seconds).latencies[name], this.now.latencies[name]);
  }

  // How much a total grew a second in the last `seconds`.
  rate(read, seconds) {
    const before = this.ago(seconds), span = this.now.time_s - before.time_s;
    return span > 0 ? (read(this.now) - read(before)) / span : null;
  }
}

function point(before, now) {
  const steps = now.engine.num_steps - before.engine.num_steps, span = now.time_s - before.time_s;
  const rows = (name) => (steps > 0 ? Math.max(0, (now.engine[name] - before.engine[name]) / steps) : 0);
  const mean = (name) => difference(before.latencies[name], now.latencies[name]).mean;
  return {
    time_s: now.time_s,
    steps: steps / span,
    rows: [rows("num_prefill_rows"), rows("num_decode_rows"), rows("num_guess_rows")],
    ttft: mean("first_token"),
    itl: mean("inter_token"),
    generated: (now.num_generation_tokens - before.num_generation_tokens) / span,
    running: now.engine.num_running,
  };
}

export function difference(before, now) {
  const counts = now.counts.map((count, index) => count - (before ? before.counts[index] : 0));
  const number = counts.reduce((sum, count) => sum + count, 0);
  const sum = now.sum_s - (before ? before.sum_s : 0);
  return { bounds: now.bounds, counts, number, mean: number > 0 ? sum / number : null };
}

// By linear interpolation within its bucket, as Prometheus' histogram_quantile; null where nothing was counted.
export function quantile({ bounds, counts, number }, share) {
  if (number <= 0) return null;
  let left = share * number;
  for (let index = 0; index < bounds.length; index += 1) {
    if (left <= counts[index]) {
      const low = index ? bounds[index - 1] : 0;
      return low + (bounds[index] - low) * (counts[index] ? left / counts[index] : 0);
    }
    left -= counts[index];
  }
  return bounds.at(-1);
}
