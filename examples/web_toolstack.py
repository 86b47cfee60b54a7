# SPDX-License-Identifier: LGPL-2.1-or-later
"""A web toolstack in one file, to copy: a live page of domains and events, and a button that destroys a domain.

Run `python examples/web_toolstack.py --sim`, or without `--sim` in dom0, and open the address that it prints. `gxl.web`
is the same ready made, with a page that one would deploy.
"""

import hmac
import json
import secrets
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

import gevent
from gevent.event import Event as Flag
from gevent.pywsgi import WSGIServer

import gxl
from gxl import prometheus
from gxl.engines.embedded import EmbeddedEngine
from gxl.web.lively import Lively

TOKEN = secrets.token_urlsafe(24)
EPOCH = secrets.token_hex(4)  # numbers begin anew with the program: a browser that knows others has to hear of it
HEARTBEAT = 2.0  # also how soon a new domain is seen: that one appears is no event of libxl's
PAGE = b"""<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Domains</title><script type="module" src="page.js"></script>
<h1>Domains</h1><p id="state" role="status">connecting</p><ul id="domains"></ul>
<h2>Events</h2><ol id="events" role="log" reversed></ol>"""
# What comes from guests is only ever put in as text. The token is behind the #, which a browser keeps to itself.
SCRIPT = b"""
const $ = (id) => document.getElementById(id);
const headers = { Authorization: `Bearer ${location.hash.slice(1)}` };
const line = (...parts) => { const li = document.createElement("li"); li.append(...parts); return li; };
const source = new EventSource("events");
source.onopen = () => ($("state").textContent = "live");
source.onerror = () => ($("state").textContent = "connection lost: trying again");
source.addEventListener("note", ({ data }) => $("events").prepend(line(JSON.parse(data))));
source.addEventListener("event", ({ data }) => {
  const event = JSON.parse(data);
  $("events").prepend(line(`${event.time} ${event.type} ${event.name ?? ""} ${event.shutdown_reason ?? ""}`));
});
const row = ([uuid, domid, name, state]) => {
  const button = Object.assign(document.createElement("button"), { textContent: "Destroy" });
  button.onclick = () => fetch(`destroy/${uuid}`, { method: "POST", headers });
  return line(`${domid} ${name} ${state} `, domid ? button : "");
};
source.addEventListener("domains", ({ data }) => $("domains").replaceChildren(...JSON.parse(data).map(row)));
"""
POLICY = "default-src 'none'; script-src 'self'; connect-src 'self'; frame-ancestors 'none'"
HEADERS = [("Content-Security-Policy", POLICY), ("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store")]


class Toolstack:
    """The WSGI application: one watcher, and a greenlet for each browser."""

    def __init__(self, ctx: gxl.Context) -> None:
        self.ctx, self.number, self.news = ctx, 0, Flag()
        self.latest: deque[str] = deque(maxlen=1000)
        gevent.spawn(self.follow)

    def follow(self) -> None:
        for event in self.ctx.watch():
            self.show(event)

    def show(self, event: gxl.Event) -> None:
        self.number += 1
        self.latest.append(event.to_json())
        news, self.news = self.news, Flag()
        news.set()

    def domains(self) -> str:
        rows = [[str(found.uuid), found.domid, found.name, found.state] for found in self.ctx.list_domain()]
        return f"event: domains\ndata: {json.dumps(rows)}\n\n"

    def events(self, last: str) -> Iterator[bytes]:
        """What one browser gets. It may take its time: only its own place in the list is kept for it."""
        epoch, _, seen = last.partition(".")
        resumed = epoch == EPOCH and seen.isdecimal()
        place = min(int(seen), self.number) if resumed else self.number - len(self.latest)
        if last and not resumed:
            yield b'event: note\ndata: "the server was started anew"\n\n'
        while True:
            text, news = self.domains(), self.news
            first = self.number - len(self.latest)
            if place < first:
                text += f'event: note\ndata: "{first - place} events came too fast to be shown"\n\n'
                place = first
            for content in list(self.latest)[place - first :]:
                place += 1
                text += f"id: {EPOCH}.{place}\nevent: event\ndata: {content}\n\n"
            yield text.encode()
            news.wait(HEARTBEAT)

    def destroy(self, uuid: str, authorization: str) -> tuple[str, list[bytes]]:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {TOKEN}".encode()):
            return "401 Unauthorized", [b"the token, please\n"]
        try:
            # By its UUID: its domid may be another domain's by now.
            self.ctx.domain_destroy(self.ctx.domid_of(UUID(uuid)), timeout=60)
        except (ValueError, LookupError):
            return "404 Not Found", [b"no such domain\n"]
        except gxl.GxlError as error:
            return "502 Bad Gateway", [f"{error}\n".encode()]
        return "200 OK", [b"done\n"]

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        status, kind, body = "404 Not Found", "text/plain", [b"nothing is here\n"]
        match environ["REQUEST_METHOD"], environ["PATH_INFO"].split("/")[1:]:
            # Neither for names that somebody's DNS has turned to this machine, nor for other people's pages.
            case _ if host.partition(":")[0] not in ("127.0.0.1", "localhost"):
                status, body = "421 Misdirected Request", [b"not my name\n"]
            case _ if environ.get("HTTP_ORIGIN", f"http://{host}") != f"http://{host}":
                status, body = "403 Forbidden", [b"not for other pages\n"]
            case "GET", [""]:
                status, kind, body = "200 OK", "text/html", [PAGE]
            case "GET", ["page.js"]:
                status, kind, body = "200 OK", "text/javascript", [SCRIPT]
            case "GET", ["metrics"]:
                status, body = "200 OK", [prometheus.render(self.ctx)]
            case "GET", ["events"]:
                start_response("200 OK", [("Content-Type", "text/event-stream"), *HEADERS])
                return self.events(environ.get("HTTP_LAST_EVENT_ID", ""))
            case "POST", ["destroy", uuid]:
                status, body = self.destroy(uuid, environ.get("HTTP_AUTHORIZATION", ""))
        start_response(status, [("Content-Type", kind), *HEADERS])
        return body


def main() -> None:
    host = gxl.SimHost()
    with gxl.Context(EmbeddedEngine(host) if "--sim" in sys.argv else "libxl", hub="gevent") as ctx:
        toolstack = Toolstack(ctx)
        if "--sim" in sys.argv:
            Lively(host, ctx, toolstack.show)
        server = WSGIServer(("127.0.0.1", 0), toolstack, log=None, environ={"SERVER_NAME": "localhost"})
        server.start()
        print(f"http://127.0.0.1:{server.server_port}/#{TOKEN}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
