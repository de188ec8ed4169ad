// The state of the server, written into the page.
import { decode, drawMap, total } from "./blocks.js";
import { sparkline, stackedAreas } from "./charts.js";
import { bytes, clock, count, duration, figure, many, percent, span } from "./formats.js";
import { SPAN_S, difference, quantile } from "./history.js";

const WINDOW_S = 30;
const RATE_S = 3;
const TABLE_ROWS = 20;
const byId = (id) => document.getElementById(id);
const counted = (counts) => Object.entries(counts).filter(([, number]) => number > 0);
const sum = (counts) => Object.values(counts).reduce((all, one) => all + one, 0);

// The value for programs, the words for people; `unit` in small type.
function write(id, value, words, unit = "") {
  const place = byId(id);
  place.value = value ?? "";
  place.textContent = words;
  if (!unit) return;
  const small = document.createElement("span");
  small.className = "unit";
  small.textContent = ` ${unit}`;
  place.append(small);
}

function say(id, words) {
  const place = byId(id);
  if (place.textContent !== words) place.textContent = words;
}

export function showState(history) {
  const now = history.now;
  say("model", now.model);
  say("uptime", `up ${clock(now.time_s - now.started_s)} · ${now.version}`);
  tiles(history, now);
  batch(history);
  blocks(now);
  queue(now);
  speculation(history, now);
  totals(now);
}

function tiles(history, now) {
  latency(history, "ttft", "first_token", "request");
  latency(history, "itl", "inter_token", "token");
  const generated = history.rate((state) => state.num_generation_tokens, RATE_S);
  const prompt = history.rate((state) => state.engine.num_prefill_rows, RATE_S);
  if (generated !== null) write("generated", generated.toFixed(2), figure(generated), "tokens/s");
  if (prompt !== null) say("generated-more", `${figure(prompt)} tokens/s of prompts`);
  const { num_running: running, max_num_seqs: most, num_waiting: waiting } = now.engine;
  write("running", running, count(running), `of ${count(most)}`);
  say("running-more", `${many(now.queue.num_queued + waiting, "request")} wait${now.queue.num_queued + waiting === 1 ? "s" : ""}`);
  spark(history, "generated", "decode");
  spark(history, "running", "shared");
}

function latency(history, id, name, noun) {
  const recent = history.latency(name, WINDOW_S);
  if (recent.number > 0) {
    write(id, recent.mean, ...duration(recent.mean));
    const [middle, high] = [quantile(recent, 0.5), quantile(recent, 0.95)];
    say(`${id}-more`, `mean of ${many(recent.number, noun)}\np50 ≈ ${span(middle)}, p95 ≈ ${span(high)}`);
  } else {
    write(id, null, "–");
    say(`${id}-more`, `no ${noun} in the last ${WINDOW_S} s`);
  }
  spark(history, id, "prefill");
}

function spark(history, id, colour) {
  const values = history.points.map((point) => [history.now.time_s - point.time_s, point[id]]);
  sparkline(byId(`${id}-spark`), values, SPAN_S, colour);
}

function batch(history) {
  const last = history.points.at(-1);
  const rows = last ? last.rows : [0, 0, 0];
  ["prefill", "decode", "guess"].forEach((kind, index) => write(`rows-${kind}`, rows[index], figure(rows[index])));
  const points = history.points.map((point) => ({ ago: history.now.time_s - point.time_s, parts: point.rows }));
  stackedAreas(byId("batch-chart"), points, SPAN_S, ["prefill", "decode", "guess"]);
  if (byId("batch-details").open) table(history);
}

function table(history) {
  const rows = history.points.slice(-TABLE_ROWS).reverse().map((point) => {
    const row = document.createElement("tr");
    const values = [history.now.time_s - point.time_s, point.steps, ...point.rows];
    row.append(...values.map((value) => Object.assign(document.createElement("td"), { textContent: figure(value) })));
    return row;
  });
  byId("batch-table").replaceChildren(...rows);
}

function blocks(now) {
  const { blocks: facts } = now, map = facts.map;
  const shares = map ? decode(map) : null;
  const shared = map ? Math.min(facts.num_used, total(shares, map, "shared")) : 0;
  write("blocks-used", facts.num_used, count(facts.num_used));
  write("blocks-shared", shared, count(shared));
  write("blocks-cached", facts.num_cached, count(facts.num_cached));
  write("blocks-free", facts.num_free, count(facts.num_free));
  const size = facts.num_blocks * facts.block_size * facts.bytes_per_token;
  say("blocks-what", `${count(facts.num_blocks)} of ${facts.block_size} tokens, ${facts.kv_cache_dtype}, ${bytes(size)}`);
  const hits = facts.num_prefix_queries ? percent(facts.num_prefix_hits / facts.num_prefix_queries) : "nothing yet";
  const cell = map && map.blocks_per_cell > 1 ? ` A square is ${map.blocks_per_cell} blocks.` : "";
  say("blocks-note", `Found in the prefix cache: ${hits} of the prompt tokens looked up. Used blocks include shared ones.${cell}`);
  if (!map) return;
  drawMap(byId("blocks-map"), shares);
  const words = `Map of ${count(facts.num_blocks)} KV blocks: ${count(facts.num_used)} used, ${count(shared)} of them shared, ` +
    `${count(facts.num_cached)} cached, ${count(facts.num_free)} free`;
  byId("blocks-map").setAttribute("aria-label", words);
}

function queue(now) {
  const { queue: door, engine } = now;
  station("front", door.num_queued, door.num_queued / door.max_queued_requests);
  station("engine", engine.num_waiting, engine.num_waiting / engine.max_num_seqs);
  station("running", engine.num_running, engine.num_running / engine.max_num_seqs);
  say("queue-what", `a request that came now would wait ${door.predicted_wait_s < 0.001 ? "not at all" : span(door.predicted_wait_s)}`);
  const refused = counted(door.num_refused).map(([reason, number]) => `${count(number)} ${reason}`).join(", ");
  say("queue-note", `${many(door.num_queued_tokens, "prompt token")} at the door. Refused so far: ${refused || "none"}.`);
}

function station(name, number, share) {
  write(`queue-${name}`, number, count(number));
  byId(`queue-${name}-meter`).value = Math.min(1, share);
}

function speculation(history, now) {
  const { speculation: all } = now, before = history.ago(WINDOW_S).speculation;
  const guessed = all.num_draft_tokens - before.num_draft_tokens, stood = all.num_accepted_tokens - before.num_accepted_tokens;
  const isOn = sum(all.choices) + all.num_drafts > 0;
  if (guessed > 0) write("acceptance", stood / guessed, percent(stood / guessed), "accepted");
  else write("acceptance", null, "–");
  say("guess-what", guessed > 0 ? `last ${WINDOW_S} s` : isOn ? "no guess lately" : "off, or nothing guessed yet");
  positions(all);
  const choices = counted(all.choices).map(([kind, number]) => `${kind} ${count(number)}`).join(", ");
  const gain = `Expected gain ×${all.gain.toFixed(2)}.`;
  say("guess-note", isOn ? `Since the start: ${count(all.num_accepted_tokens)} of ${count(all.num_draft_tokens)} stood. Steps by choice: ${choices || "none"}. ${gain}`
    : "Guessed tokens that the model confirms come free. Start the server with --speculative-config.");
}

function positions(all) {
  const rates = all.num_drafts ? all.num_accepted_by_position.map((number) => number / all.num_drafts) : [];
  const list = byId("positions");
  while (list.children.length > rates.length) list.lastChild.remove();
  rates.forEach((rate, index) => {
    if (!list.children[index]) list.append(document.createElement("li"));
    const entry = list.children[index];
    if (!entry.firstChild) entry.append("", document.createElement("meter"));
    entry.firstChild.textContent = `${index + 1}: ${percent(rate)}`;
    entry.lastChild.value = rate;
    entry.lastChild.setAttribute("aria-label", `Place ${index + 1}`);
  });
}

function totals(now) {
  const write_count = (id, number) => write(id, number, count(number));
  write_count("total-finished", sum(now.finished));
  write_count("total-prompt", now.num_prompt_tokens);
  write_count("total-generated", now.num_generation_tokens);
  write_count("total-refused", sum(now.queue.num_refused));
  write_count("total-preemptions", now.engine.num_preemptions);
  write_count("total-restarts", now.engine.num_restarts);
  const { num_prefix_hits: hits, num_prefix_queries: queries } = now.blocks;
  write("total-hits", queries ? hits / queries : null, queries ? percent(hits / queries) : "–");
  const { mean } = difference(null, now.latencies.first_token);
  write("total-ttft", mean, mean === null ? "–" : span(mean));
}
