// SPDX-License-Identifier: LGPL-2.1-or-later
// The page: a table of domains and a log of events, kept up to date by the stream. What comes from guests is only ever
// put in as text.

import { Domains } from "./domains.js";
import { Log } from "./log.js";
import { Stream } from "./stream.js";
import { number, plain } from "./words.js";

const $ = (id) => document.getElementById(id);
const STATES = {
  connecting: "connecting",
  live: "live",
  lost: "connection lost: trying again",
  refused: "token needed",
};

/** The token: this tab's, and of this server only. It comes in the part of the address that is never sent. */
class Token {
  #key = `gxl token ${new URL(".", location.href).pathname}`;

  constructor() {
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    if (given !== null) {
      sessionStorage.setItem(this.#key, given);
      history.replaceState(null, "", location.pathname + location.search);
    }
  }

  get header() {
    const token = sessionStorage.getItem(this.#key);
    return token ? { Authorization: `Bearer ${token}` } : {};
  }

  /** Asks for it. Whether there is one to try. */
  async ask(why) {
    const dialog = $("ask");
    $("secret").value = "";
    $("ask-heading").textContent = why;
    dialog.returnValue = "";
    dialog.showModal();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    const secret = $("secret").value.trim();
    $("secret").value = "";
    if (dialog.returnValue !== "go" || !/^[\x21-\x7e]+$/.test(secret)) return false;
    sessionStorage.setItem(this.#key, secret);
    return true;
  }
}

const token = new Token();
const log = new Log($("log"), $("seen"), $("quiet"), $("pause"));
const domains = new Domains(act);

async function act(domain, action) {
  const name = plain(domain.name ?? `domain ${domain.domid}`);
  const asked = await confirmed(action, name);
  if (asked === null) return;
  say(`${name}: ${action} asked for`);
  for (;;) {
    let response;
    try {
      response = await fetch(`api/domains/${domain.uuid}/${action}`, {
        method: "POST",
        headers: { "Content-Type": "application/json", ...token.header },
        body: JSON.stringify(asked),
      });
    } catch {
      failed(`${action} of ${name}: the server can't be reached`);
      return;
    }
    if (response.status === 401) {
      if (await token.ask("Acting on domains needs the token")) continue;
      return;
    }
    const answer = await response.json().catch(() => ({}));
    if (response.ok) say(`${name}: ${action} done`);
    else failed(`${action} of ${name}: ${plain(answer.error ?? response.status)}`);
    return;
  }
}

async function confirmed(action, name) {
  const words = {
    shutdown: ["Shut down", "The guest is asked to shut down, and may take its time.", "Shut down"],
    destroy: ["Destroy", "It ends at once, as when a plug is pulled; what it has not written is lost.", "Destroy"],
    eject: ["Eject a disk of", "The medium is taken out of the drive.", "Eject"],
  }[action];
  const dialog = $("confirm");
  $("confirm-heading").textContent = `${words[0]} ${name}?`;
  $("confirm-text").textContent = words[1];
  $("confirm-go").textContent = words[2];
  $("confirm-go").className = action === "destroy" ? "danger" : "main";
  $("confirm-drive").hidden = action !== "eject";
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "go") return null;
  return action === "eject" ? { vdev: $("vdev").value.trim() } : {};
}

function say(text) {
  $("outcome").textContent = text;
}

function failed(text) {
  say(text);
  log.note(text, "bad");
}

function state(word) {
  const pill = $("connection");
  if (pill.dataset.state !== word) {
    pill.dataset.state = word;
    pill.textContent = STATES[word];
  }
  document.body.classList.toggle("stale", word !== "live");
  if (word === "refused") askAndConnect();
}

async function askAndConnect() {
  if (!$("ask").open && (await token.ask("This page needs the token"))) stream.connect();
}

function message(kind, data) {
  switch (kind) {
    case "hello":
      $("host").textContent = plain(data.host);
      $("engine").textContent = plain(data.engine);
      document.title = `${plain(data.host)} · gxl`;
      domains.actions = data.actions;
      $("problem").hidden = true;
      if (data.restarted) log.note("The server was started anew: what happened before that is not shown");
      break;
    case "domains":
      domains.update(data);
      break;
    case "event":
      log.add(data);
      break;
    case "missed":
      log.note(`${number(data.count)} events came too fast for this page and are not shown`, "bad");
      break;
    case "problem":
      $("problem").textContent = `Nothing new is shown: ${plain(data.problem)}`;
      $("problem").hidden = data.problem === "";
      break;
  }
}

const stream = new Stream({ state, message }, () => token.header);
$("token").addEventListener("click", async () => {
  if (await token.ask("Token")) stream.connect();
});
// Enter, in a field, presses a form's first button of those that submit: that must not be this one.
for (const button of document.querySelectorAll("dialog .cancel")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
$("filter").addEventListener("input", (event) => (domains.filter = event.target.value));
stream.connect();
