# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program from before greenlets: threads that block, a web server, a queue, and a command for each event.

Nothing here knows of gevent. Run as it is, its threads are threads; after monkey.patch_all(), or by
`python -m gevent.monkey examples/legacy_app.py …`, they are greenlets, and nobody has to tell gxl.

    GET  /events          what has happened, as JSON
    POST /destroy/DOMID   destroys a domain

It ends after so many domains have died. With --simulate they live on a simulated host in this process.
"""

import argparse
import json
import logging
import queue
import random
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gxl
from gxl.engines.embedded import EmbeddedEngine

WORKERS = 4
log = logging.getLogger("legacy")


class App:
    """What the threads share."""

    def __init__(self, ctx: gxl.Context, deaths: int) -> None:
        self.ctx = ctx
        self.deaths = deaths
        self.lock = threading.Lock()
        self.done = threading.Event()
        self.work: queue.Queue[gxl.Event | None] = queue.Queue()
        self.events: list[dict[str, object]] = []
        self.requests = 0

    def wait_for_events(self) -> None:
        """Several threads do this at once; each event comes to one of them."""
        try:
            while True:
                self.work.put(self.ctx.event_wait())
        except gxl.ContextClosed:
            log.info("%s has nothing left to wait for", threading.current_thread().name)

    def run_commands(self) -> None:
        """One thread does this: a command for each event, and its exit code noted."""
        for number, event in enumerate(iter(self.work.get, None)):
            kind = type(event).__name__
            command = ["sh", "-c", f"echo {kind} of domain {event.domid}; exit {number % 8}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            log.info("%s (exit code %d)", done.stdout.strip(), done.returncode)
            with self.lock:
                self.events.append({"event": kind, "domid": event.domid, "code": done.returncode})
                if sum(entry["event"] == "DomainDeath" for entry in self.events) >= self.deaths:
                    self.done.set()


class Handler(BaseHTTPRequestHandler):
    """One request. The server starts a thread for it."""

    app: App

    def do_GET(self) -> None:
        with self.app.lock:
            self.app.requests += 1
            self.answer(200, self.app.events)

    def do_POST(self) -> None:
        with self.app.lock:
            self.app.requests += 1
        domid = int(self.path.rpartition("/")[2])
        try:
            self.app.ctx.domain_destroy(domid)
        except gxl.LibxlError as error:
            self.answer(404, str(error))
        else:
            self.answer(200, f"domain {domid} is destroyed")

    def answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        log.info("request: %s", format % args)


def live_and_die(host: gxl.SimHost, count: int) -> None:
    """What happens on the simulated host."""
    for number in range(count):
        domid = host.create_domain(f"guest{number}")
        time.sleep(random.uniform(0.05, 0.15))
        host.shutdown_domain(domid, number % 4)
        time.sleep(random.uniform(0.01, 0.05))
        host.destroy_domain(domid)


def serve(ctx: gxl.Context, deaths: int, host: gxl.SimHost | None) -> None:
    app = App(ctx, deaths)
    Handler.app = app
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, ctx.follow_domains():
        print(f"serving on http://127.0.0.1:{server.server_address[1]}/", flush=True)
        waiters = [threading.Thread(target=app.wait_for_events, name=f"waiter-{n}") for n in range(WORKERS)]
        runner = threading.Thread(target=app.run_commands)
        server_thread = threading.Thread(target=server.serve_forever)
        for thread in (*waiters, runner, server_thread):
            thread.start()
        if host is not None:
            threading.Thread(target=live_and_die, args=(host, deaths)).start()
        app.done.wait()
        server.shutdown()
        ctx.close()
        app.work.put(None)
        for thread in (*waiters, runner, server_thread):
            thread.join()
    print(json.dumps({"events": app.events, "requests": app.requests}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve domain events over HTTP, until so many domains have died.")
    parser.add_argument("deaths", type=int)
    parser.add_argument("--simulate", action="store_true", help="let domains live and die in this process")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(threadName)s: %(message)s")
    if options.simulate:
        with gxl.SimHost() as host, gxl.Context(engine=EmbeddedEngine(host)) as ctx:
            serve(ctx, options.deaths, host)
    else:
        with gxl.Context() as ctx:
            serve(ctx, options.deaths, None)


if __name__ == "__main__":
    main()
