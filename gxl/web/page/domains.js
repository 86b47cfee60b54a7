// SPDX-License-Identifier: LGPL-2.1-or-later
// The table of domains.

import { failed, memory, number, plain, reason } from "./words.js";

const $ = (id) => document.getElementById(id);
const ORDER = ["running", "blocked", "paused", "shutdown", "dying"];
const LABELS = { shutdown: "Shut down", destroy: "Destroy", eject: "Eject…" };
/** Seconds; a shorter one would show the grain of the clocks. */
const SHORTEST_SAMPLE = 2;
/** Domain 0 is the host itself. */
const HOST = 0;

export class Domains {
  #act;
  #actions = [];
  #filter = "";
  #rows = new Map();

  constructor(act) {
    this.#act = act;
  }

  set actions(actions) {
    const changed = this.#actions.join() !== actions.join();
    this.#actions = actions;
    $("actions").hidden = actions.length === 0;
    if (changed) for (const row of this.#rows.values()) this.#buttons(row);
  }

  set filter(text) {
    this.#filter = text.trim().toLowerCase();
    for (const row of this.#rows.values()) this.#sift(row);
    this.#sum();
  }

  update({ all, changed, gone }) {
    const leaving = all ? new Set(this.#rows.keys()) : new Set(gone);
    for (const domain of changed) {
      leaving.delete(domain.domid);
      const row = this.#rows.get(domain.domid);
      // The same number, another domain: nothing of the old one may stay.
      if (row !== undefined && row.domain.uuid === domain.uuid) this.#fill(row, domain);
      else this.#insert(domain);
    }
    for (const domid of leaving) {
      const element = this.#rows.get(domid)?.element;
      // Who uses the keyboard would be left nowhere, and to another domain's buttons nobody may be led unasked.
      if (element?.contains(document.activeElement)) $("domains").focus({ preventScroll: true });
      element?.remove();
      this.#rows.delete(domid);
    }
    this.#sum();
  }

  #insert(domain) {
    this.#rows.get(domain.domid)?.element.remove();
    const element = $("row").content.cloneNode(true).firstElementChild;
    const row = { element, domain, sample: domain, buttons: [] };
    this.#rows.set(domain.domid, row);
    this.#fill(row, domain);
    this.#buttons(row);
    const next = [...$("rows").children].find((other) => Number(other.dataset.domid) > domain.domid);
    $("rows").insertBefore(element, next ?? null);
  }

  #fill(row, domain) {
    const [id, name, state, amount, cpu, uuid] = row.element.children;
    const seconds = domain.time - row.sample.time;
    row.element.dataset.domid = domain.domid;
    row.element.dataset.state = domain.state;
    id.textContent = domain.domid;
    name.firstElementChild.textContent = domain.name === null ? "(no name)" : plain(domain.name);
    const label = state.firstElementChild;
    label.textContent = domain.state === "shutdown" ? reason(domain.shutdown_reason) : domain.state;
    label.dataset.state = domain.state === "shutdown" && failed(domain.shutdown_reason) ? "failed" : domain.state;
    amount.textContent = memory(domain.current_memory_kb);
    if (seconds > SHORTEST_SAMPLE) {
      cpu.textContent = `${Math.round((100 * (domain.cpu_time - row.sample.cpu_time)) / seconds)} %`;
      row.sample = domain;
    } else if (!cpu.textContent) {
      cpu.textContent = "–";
    }
    cpu.title = `${number(domain.cpu_time)} s in all`;
    uuid.textContent = domain.uuid;
    uuid.title = domain.uuid;
    row.domain = domain;
    for (const button of row.buttons) button.disabled = unfit(button.dataset.action, domain);
    this.#sift(row);
  }

  #buttons(row) {
    const cell = row.element.lastElementChild;
    cell.hidden = this.#actions.length === 0;
    row.buttons = row.domain.domid === HOST ? [] : this.#actions.map((action) => this.#button(row, action));
    cell.replaceChildren(...row.buttons);
  }

  #button(row, action) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.action = action;
    button.textContent = LABELS[action];
    button.disabled = unfit(action, row.domain);
    button.setAttribute("aria-label", `${LABELS[action]} ${plain(row.domain.name ?? `domain ${row.domain.domid}`)}`);
    button.addEventListener("click", () => this.#act(row.domain, action));
    return button;
  }

  #sift(row) {
    const { name, uuid, state, domid } = row.domain;
    const text = `${name ?? ""} ${uuid} ${state} ${domid}`.toLowerCase();
    row.element.hidden = !this.#filter.split(/\s+/).every((word) => text.includes(word));
  }

  #sum() {
    const rows = [...this.#rows.values()];
    const shown = rows.filter((row) => !row.element.hidden);
    $("total").textContent = shown.length === rows.length ? number(rows.length) : `${shown.length} of ${rows.length}`;
    $("tally").replaceChildren(
      ...ORDER.flatMap((state) => {
        const count = rows.filter((row) => row.domain.state === state).length;
        if (!count) return [];
        const item = document.createElement("li");
        item.dataset.state = state;
        item.textContent = `${number(count)} ${state === "shutdown" ? "shut down" : state}`;
        return [item];
      }),
    );
    $("nothing").hidden = shown.length > 0;
    $("nothing").textContent = rows.length ? "No domain matches the filter." : "There is no domain.";
  }
}

/** Who has shut down can't be asked to, nor does it eject; who is dying is past everything. */
function unfit(action, domain) {
  return domain.state === "dying" || (action !== "destroy" && domain.state === "shutdown");
}
