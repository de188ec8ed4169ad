// The API key: in this tab's session storage, sent as a Bearer token to this server alone.
const PLACE = "vivace-api-key";
const byId = (id) => document.getElementById(id);

let asking = null;

export function authorised(headers = {}) {
  const key = sessionStorage.getItem(PLACE);
  return key ? { ...headers, Authorization: `Bearer ${key}` } : headers;
}

// Shows the dialog and resolves to whether a key was given. Asked twice, there is one dialog.
export function askForKey() {
  asking ??= new Promise((resolve) => open(resolve)).finally(() => { asking = null; });
  return asking;
}

function open(resolve) {
  const dialog = byId("key-dialog"), form = byId("key-form"), input = byId("key-input");
  const before = sessionStorage.getItem(PLACE);
  let isGiven = false;
  byId("key-button").hidden = false;
  byId("key-error").textContent = before ? "The server does not know this key." : "";
  form.onsubmit = (event) => {
    const key = input.value.trim();
    if (!/^[!-~]+$/.test(key)) {
      event.preventDefault();
      byId("key-error").textContent = "A key is printable ASCII without blanks.";
      input.focus();
      return;
    }
    event.preventDefault();
    sessionStorage.setItem(PLACE, key);
    isGiven = true;
    dialog.close();
  };
  byId("key-cancel").onclick = () => dialog.close();
  dialog.onclose = () => {
    input.value = "";
    resolve(isGiven);
  };
  dialog.showModal();
  input.focus();
}
