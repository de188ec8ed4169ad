// Joins the feed, the panels and the chat.
import { Chat } from "./chat.js";
import { Feed } from "./feed.js";
import { History } from "./history.js";
import { askForKey } from "./key.js";
import { showState } from "./panels.js";

const STATES = { ready: ["fine", "Serving"], restarting: ["wait", "The engine restarts"], stopped: ["bad", "The engine stopped"] };
const history = new History();
const status = document.getElementById("status");

// Written only where it changes: it is read out.
function setStatus(kind, words) {
  if (status.dataset.kind === kind && status.textContent === words) return;
  status.dataset.kind = kind;
  status.textContent = words;
}

function take(state) {
  history.add(state);
  setStatus(...(STATES[state.engine.state] ?? ["wait", state.engine.state]));
  showState(history);
}

const feed = new Feed(take, setStatus);
new Chat(() => history.now?.model);
document.getElementById("key-button").addEventListener("click", async () => {
  if (await askForKey()) feed.start();
});
window.addEventListener("resize", () => history.now && showState(history));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => history.now && showState(history));
feed.start();
