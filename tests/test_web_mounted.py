# SPDX-License-Identifier: LGPL-2.1-or-later
"""gxl.web inside what its users have already: a Flask application, and gunicorn with its gevent workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
from web_client import Browser, serving
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client
from worlds import World

from gxl.web import Application

ROOT = Path(__file__).parent.parent

# What an author writes into the module that gunicorn loads.
MODULE = """
import gxl
from gxl.engines.embedded import EmbeddedEngine
from gxl.web import Application

host = gxl.SimHost()
host.create_domain("web1")
app = Application(gxl.Context(EmbeddedEngine(host), hub="gevent"))
"""


@pytest.fixture
def flask_app(world: World) -> Iterator[flask.Flask]:
    domains = Application(world.open())
    app = flask.Flask("toolstack")

    @app.route("/")
    def home() -> str:
        return "home"

    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/xen/domains": domains})  # type: ignore[method-assign]  # replaced on purpose
    yield app
    domains.close()


def test_it_can_be_mounted_in_a_flask_application_below_a_prefix(world: World, flask_app: flask.Flask) -> None:
    domid = world.host.create_domain("web1")
    client = Client(flask_app)
    assert client.get("/").text == "home"
    # The page's own addresses are relative: they need the slash.
    moved = client.get("/xen/domains")
    assert (moved.status_code, moved.headers["Location"]) == (308, "/xen/domains/")
    page = client.get("/xen/domains/")
    assert 'src="static/page.js"' in page.text
    assert client.get("/xen/domains/static/page.js").status_code == 200
    assert client.get("/static/page.js").status_code == 404
    with serving(flask_app) as server, Browser(server, path="/xen/domains/api/stream") as browser:
        browser.until_domains(lambda domains: domid in domains)
        world.host.destroy_domain(domid)
        assert browser.next("event")["domid"] == domid


class Gunicorn:
    """A running gunicorn."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (folder / "toolstack.py").write_text(MODULE)
        self.log = folder / "log"
        command = [sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "--bind", f"127.0.0.1:{self.port}"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *options, "toolstack:app"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )

    def ask(self, path: str) -> tuple[int, Any]:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, json.load(error)
            except (urllib.error.URLError, ConnectionError):
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.1)


@pytest.fixture
def gunicorn(tmp_path: Path) -> Iterator[Callable[..., Gunicorn]]:
    running: list[Gunicorn] = []

    def gunicorn(*options: str) -> Gunicorn:
        running.append(Gunicorn(tmp_path, *options))
        return running[-1]

    yield gunicorn
    for server in running:
        server.process.send_signal(signal.SIGTERM)
        try:
            server.process.wait(20)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


@pytest.mark.parametrize("workers", [1, 2])
def test_gunicorns_gevent_workers_serve_it(gunicorn: Callable[..., Gunicorn], workers: int) -> None:
    server = gunicorn("--workers", str(workers))
    status, content = server.ask("/api/domains")
    assert (status, [row["name"] for row in content["domains"]]) == (200, ["Domain-0", "web1"])
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/api/stream", timeout=30) as stream:
        assert stream.readline() == b"event: hello\n"
        assert not json.loads(stream.readline().removeprefix(b"data: "))["restarted"]


def test_a_context_from_before_the_fork_is_refused_with_what_to_do(gunicorn: Callable[..., Gunicorn]) -> None:
    server = gunicorn("--preload")
    for _ in range(2):
        status, content = server.ask("/api/domains")
        assert status == 500
        for word in ("forked", "preload_app", "post_worker_init", "gevent"):
            assert word in content["error"]
    assert "preload_app" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_a_worker_that_is_no_gevent_worker_is_refused_too(gunicorn: Callable[..., Gunicorn]) -> None:
    server = gunicorn("--worker-class", "gthread", "--threads", "2")
    status, content = server.ask("/api/domains")
    assert (status, "worker class gevent" in content["error"]) == (500, True)
