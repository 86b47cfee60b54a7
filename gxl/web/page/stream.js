// SPDX-License-Identifier: LGPL-2.1-or-later
// Follows the server's events. EventSource would do, but it can't send a token in a header.

const FIRST_WAIT = 500;
const LONGEST_WAIT = 10_000;

/** Calls `on.message(kind, data)` for what comes, and `on.state(word)` for how it goes, for ever. */
export class Stream {
  #on;
  #authorization;
  #last = null;
  #heartbeat = 15;
  #wait = FIRST_WAIT;
  #abort = null;
  #timer = null;

  constructor(on, authorization) {
    this.#on = on;
    this.#authorization = authorization;
    addEventListener("online", () => this.connect());
    // A page that comes back from the browser's cache has lost its connection without a word.
    addEventListener("pageshow", (event) => event.persisted && this.connect());
  }

  /** Connects now, instead of at the end of the present connection or wait. */
  async connect() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    const abort = (this.#abort = new AbortController());
    this.#on.state("connecting");
    let again = true;
    try {
      again = await this.#follow(abort);
    } catch {
      // Whatever it was, the answer is the same: try again, from where we are.
    }
    if (abort !== this.#abort) return;
    if (!again) {
      this.#on.state("refused");
      return;
    }
    this.#on.state("lost");
    // Many pages lose one server together: they must not all come back in the same moment.
    this.#timer = setTimeout(() => this.connect(), this.#wait * (0.5 + Math.random()));
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT);
  }

  async #follow(abort) {
    const headers = { Accept: "text/event-stream", ...this.#authorization() };
    if (this.#last !== null) headers["Last-Event-ID"] = this.#last;
    // No answer at all is a lost connection, too.
    let watchdog = setTimeout(() => abort.abort(), 2.5 * this.#heartbeat * 1000);
    try {
      const response = await fetch("api/stream", { headers, cache: "no-store", signal: abort.signal });
      if (response.status === 401) return false;
      if (!response.ok) return true;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        clearTimeout(watchdog);
        watchdog = setTimeout(() => abort.abort(), 2.5 * this.#heartbeat * 1000);
        const { done, value } = await reader.read();
        if (done) return true;
        const messages = (text + value).split("\n\n");
        text = messages.pop();
        for (const message of messages) this.#take(message);
      }
    } finally {
      clearTimeout(watchdog);
    }
  }

  #take(message) {
    const fields = {};
    for (const line of message.split("\n")) {
      const colon = line.indexOf(":");
      if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
    }
    if (fields.event === undefined) return; // a heartbeat
    const data = JSON.parse(fields.data);
    if (fields.event === "hello") {
      this.#heartbeat = data.heartbeat;
      this.#wait = FIRST_WAIT;
      this.#on.state("live");
    }
    this.#on.message(fields.event, data);
    if (fields.id !== undefined) this.#last = fields.id;
  }
}
