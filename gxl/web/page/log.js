// SPDX-License-Identifier: LGPL-2.1-or-later
// The log of events: newest first, so much of it and no more.

import { number, plain, told } from "./words.js";

const LONGEST = 500;
const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });

export class Log {
  #list;
  #count;
  #empty;
  #seen = 0;
  #held = null;
  #fresh = [];
  #settled = null;

  constructor(list, count, empty, hold) {
    this.#list = list;
    this.#count = count;
    this.#empty = empty;
    hold.addEventListener("click", () => {
      const holding = this.#held === null;
      const held = this.#held ?? [];
      this.#held = holding ? [] : null;
      hold.setAttribute("aria-pressed", holding);
      for (const item of held) this.#put(item);
    });
  }

  /** An event of a domain, or of no domain in particular. */
  add(event) {
    const [words, kind] = told(event);
    const item = line(new Date(event.time), kind);
    if (event.domid || event.name) {
      const name = document.createElement("bdi");
      name.className = "name";
      name.textContent = plain(event.name ?? `domain ${event.domid}`);
      const domid = document.createElement("span");
      domid.className = "domid";
      domid.textContent = `${event.domid}`;
      item.append(name, " ", domid, " ");
    }
    item.append(words);
    item.title = `event ${event.seq}, ${event.time}${event.uuid ? `, ${event.uuid}` : ""}`;
    this.#seen += 1;
    this.#show(item);
  }

  /** Something about the page itself. */
  note(text, kind = "note") {
    const item = line(new Date(), kind);
    item.append(text);
    this.#show(item);
  }

  #show(item) {
    if (this.#held !== null) {
      this.#held.push(item);
      if (this.#held.length > LONGEST) this.#held.shift();
    } else {
      this.#put(item);
    }
  }

  #put(item) {
    // A storm is drawn once a frame, not once an event.
    this.#fresh.push(item);
    if (this.#fresh.length === 1) setTimeout(() => this.#draw(), 0);
  }

  #draw() {
    const fresh = this.#fresh.splice(0).slice(-LONGEST).reverse();
    this.#list.prepend(...fresh);
    while (this.#list.children.length > LONGEST) this.#list.lastElementChild.remove();
    this.#count.textContent = this.#seen ? number(this.#seen) : "";
    this.#empty.hidden = true;
    // What was there before is not read out; what comes from now on is.
    this.#settled ??= setTimeout(() => this.#list.setAttribute("aria-busy", "false"), 1000);
  }
}

function line(when, kind) {
  const item = document.createElement("li");
  item.className = kind;
  const time = document.createElement("time");
  time.dateTime = when.toISOString();
  time.textContent = TIME.format(when);
  item.append(time, " ");
  return item;
}
