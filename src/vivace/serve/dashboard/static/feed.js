// Asks for the server's state while the page is seen; says what the connection is like.
import { askForKey, authorised } from "./key.js";

const INTERVAL_MS = 500;
const TROUBLE_MS = 2000;
const TIMEOUT_MS = 10000;

export class Feed {
  #timer = null;
  #isRunning = false;

  // onState(state) gets each state, onStatus(kind, words) what stands in its way: kind is fine, wait or bad.
  constructor(onState, onStatus) {
    this.onState = onState;
    this.onStatus = onStatus;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.pause() : this.start()));
  }

  start() {
    clearTimeout(this.#timer);
    if (!this.#isRunning && !document.hidden) this.#ask();
  }

  pause() {
    clearTimeout(this.#timer);
  }

  async #ask() {
    this.#isRunning = true;
    let pause = TROUBLE_MS;
    try {
      pause = await this.#fetch();
    } catch {
      this.onStatus("bad", "No connection");
    }
    this.#isRunning = false;
    if (!document.hidden && pause !== null) this.#timer = setTimeout(() => this.#ask(), pause);
  }

  // The pause before the next time; null: not before somebody starts it.
  async #fetch() {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const answer = await fetch("/dashboard/state", { headers: authorised(), cache: "no-store", signal });
    if (answer.status === 401) {
      this.onStatus("wait", "A key is needed");
      return (await askForKey()) ? 0 : null;
    }
    if (answer.status === 503) {
      const why = (await answer.json()).error.message;
      this.onStatus("wait", why.charAt(0).toUpperCase() + why.slice(1));
      return TROUBLE_MS;
    }
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    this.onState(await answer.json());
    return INTERVAL_MS;
  }
}
