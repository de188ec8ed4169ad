// The chat panel: a conversation with the served model, streamed, measured where it is read.
import { events } from "./events.js";
import { count, figure, span } from "./formats.js";
import { askForKey, authorised } from "./key.js";

const byId = (id) => document.getElementById(id);

function made(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export class Chat {
  #messages = [];
  #running = null; // AbortController of the answer that streams

  // model() gives the name of the served model.
  constructor(model) {
    this.model = model;
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("chat-input").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !byId("key-dialog").open) this.#running?.abort();
    });
    byId("chat-stop").addEventListener("click", () => this.#running?.abort());
    byId("chat-clear").addEventListener("click", () => this.#clear());
  }

  #clear() {
    this.#running?.abort();
    this.#messages = [];
    byId("chat-log").replaceChildren();
    byId("chat-said").textContent = "The conversation is empty.";
    byId("chat-input").focus();
  }

  async #send() {
    const input = byId("chat-input"), text = input.value.trim();
    if (!text || this.#running) return;
    input.value = "";
    this.#messages.push({ role: "user", content: text });
    byId("chat-log").append(message("user", text));
    await this.#answer();
  }

  async #answer() {
    const messages = this.#messages, entry = new Answer();
    this.#running = new AbortController();
    this.#setBusy(true);
    byId("chat-log").append(entry.element);
    scroll();
    try {
      await this.#stream(entry, this.#running.signal);
    } catch (error) {
      entry.fail(error.name === "AbortError" ? null : error.message);
    }
    entry.close();
    if (entry.text) messages.push({ role: "assistant", content: entry.text });
    this.#running = null;
    this.#setBusy(false);
    byId("chat-said").textContent = entry.summary;
    scroll();
  }

  async #stream(entry, signal) {
    const body = {
      model: this.model() ?? undefined,
      messages: this.#messages,
      max_tokens: Math.max(1, Math.trunc(byId("chat-tokens").valueAsNumber) || 256),
      temperature: Math.max(0, byId("chat-temperature").valueAsNumber || 0),
      stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
    };
    const headers = authorised({ "Content-Type": "application/json" });
    const answer = await fetch("/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
    entry.requestId = answer.headers.get("x-request-id");
    if (!answer.ok) {
      if (answer.status === 401) askForKey();
      throw new Error((await answer.json().catch(() => null))?.error?.message ?? `The server answered ${answer.status}.`);
    }
    for await (const data of events(answer)) {
      if (data === "[DONE]") return;
      entry.take(JSON.parse(data));
    }
    if (!entry.finish) throw new Error("The answer was cut off.");
  }

  #setBusy(isBusy) {
    byId("chat-send").disabled = isBusy;
    byId("chat-stop").disabled = !isBusy;
    if (!isBusy && document.activeElement === document.body) byId("chat-input").focus();
  }
}

function message(role, text) {
  const name = made("span", { className: "hidden", textContent: role === "user" ? "You: " : "Model: " });
  const bubble = made("div", { className: "text", textContent: text });
  const element = made("li", { className: "message" }, name, bubble);
  element.dataset.role = role;
  return element;
}

function scroll() {
  const log = byId("chat-log");
  log.scrollTop = log.scrollHeight;
}

class Answer {
  text = "";
  finish = null;
  requestId = null;
  summary = "";
  #numTokens = 0;
  #asked = performance.now();
  #first = null;
  #last = null;
  #error = null;
  #isStopped = false;

  constructor() {
    this.element = message("assistant", "…");
    this.element.setAttribute("aria-busy", "true"); // read out once, when it is whole
    this.note = made("p", { className: "note small" });
    this.element.append(this.note);
  }

  take(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    const choice = chunk.choices?.[0], delta = choice?.delta ?? {};
    const numTokens = chunk.usage?.completion_tokens ?? this.#numTokens;
    if (numTokens > this.#numTokens) {
      this.#last = performance.now();
      this.#first ??= this.#last;
      this.#numTokens = numTokens;
    }
    const thought = delta.reasoning_content ?? delta.reasoning;
    if (thought) this.#think(thought);
    if (delta.content) {
      this.text += delta.content;
      const log = byId("chat-log"), follows = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
      this.element.querySelector(".text").textContent = this.text;
      if (follows) scroll();
    }
    this.finish = choice?.finish_reason ?? this.finish;
    this.note.textContent = this.#figures();
  }

  #think(thought) {
    const place = this.element.querySelector(".thinking") ?? made("div", { className: "thinking" });
    if (!place.parentNode) this.element.insertBefore(place, this.element.querySelector(".text"));
    place.textContent += thought;
  }

  // With a message what went wrong, without one it was stopped.
  fail(error) {
    this.#error = error;
    this.#isStopped = error === null;
  }

  #figures() {
    if (this.#first === null) return "";
    const seconds = (this.#last - this.#first) / 1000, parts = [`first token ${span((this.#first - this.#asked) / 1000)}`];
    if (this.#numTokens > 1 && seconds > 0) parts.push(`${figure((this.#numTokens - 1) / seconds)} tokens/s`);
    return [...parts, `${count(this.#numTokens)} token${this.#numTokens === 1 ? "" : "s"}`].join(" · ");
  }

  close() {
    const bubble = this.element.querySelector(".text");
    if (!this.text) bubble.textContent = this.#isStopped ? "(stopped)" : this.#error ? "(no answer)" : "(empty)";
    const ending = this.#isStopped ? "stopped" : this.finish === "length" ? "reached the limit of tokens" : "";
    this.note.textContent = [this.#figures(), ending].filter(Boolean).join(" · ");
    if (this.#error) this.note.append(made("span", { className: "error", role: "alert", textContent: this.#error }));
    else if (this.requestId && this.#first !== null) this.#offerWhy();
    this.element.removeAttribute("aria-busy");
    this.summary = this.#error ? "" : this.#isStopped ? "Stopped." : `The answer is complete. ${this.#figures()}`;
  }

  #offerWhy() {
    const button = made("button", { type: "button", className: "quiet", textContent: "Why?" });
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-label", "Why did it take this long?");
    button.addEventListener("click", () => this.#toggleWhy(button));
    this.note.append(button);
  }

  async #toggleWhy(button) {
    const open = this.element.querySelector(".why");
    button.setAttribute("aria-expanded", String(!open));
    if (open) {
      open.remove();
      return;
    }
    const list = made("ul", { className: "why" });
    this.element.append(list);
    const lines = await this.#explain().catch((error) => [error.message]);
    list.replaceChildren(...lines.map((textContent) => made("li", { textContent })));
    list.scrollIntoView({ block: "nearest" });
  }

  async #explain() {
    const answer = await fetch(`/v1/requests/${this.requestId}/explain`, { headers: authorised() });
    const body = await answer.json();
    return answer.ok ? body.summary : [body.error.message];
  }
}
