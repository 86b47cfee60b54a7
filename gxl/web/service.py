# SPDX-License-Identifier: LGPL-2.1-or-later
"""A server of one's own for an Application, from opening Xen to the signal that ends it: what `gxl serve` runs."""

from __future__ import annotations

import logging
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPException
from typing import Any
from uuid import UUID

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import LoggingLogAdapter, WSGIHandler, WSGIServer
from werkzeug import Response
from werkzeug.test import create_environ

from gxl.context import Context
from gxl.engines.embedded import EmbeddedEngine
from gxl.simhost import SimHost
from gxl.web.application import Application
from gxl.web.lively import Lively
from gxl.web.privileges import become

CONNECTIONS = 10_000
"""The most at a time, each a greenlet; more wait to be accepted."""
IDLE = 120.0
"""Seconds for which a connection may stay open between two requests, or take nothing of an answer."""
SLOWEST = 20.0
"""Seconds that a client may take to send the head of a request, or what its answer did not need of the body."""


class _Handler(WSGIHandler):
    """Does not wait for ever for clients that open a connection and say nothing, or say or take it byte by byte."""

    # What a socket says whose time is over: nothing to report, as little as a broken connection.
    ignored_socket_errors = (*WSGIHandler.ignored_socket_errors, "timed out")  # type: ignore[arg-type]  # its stubs know numbers only

    def handle(self) -> None:
        self.socket.settimeout(IDLE)
        super().handle()

    def read_requestline(self) -> Any:
        # pywsgi takes an OSError here for the end of the connection …
        with gevent.Timeout(IDLE, TimeoutError("no request")):
            return super().read_requestline()

    def read_request(self, raw_requestline: str) -> Any:
        # … and a ValueError here for a bad request; of other errors it prints the traceback.
        try:
            with gevent.Timeout(SLOWEST, ValueError("the head of the request takes too long")):
                return super().read_request(raw_requestline)
        except HTTPException as error:
            raise ValueError(str(error)) from error

    def run_application(self) -> None:
        try:
            super().run_application()
        finally:
            # pywsgi goes on to read what is left of the body, to find the next request behind it.
            self._rest = gevent.Timeout.start_new(SLOWEST, TimeoutError("timed out"))

    def handle_one_response(self) -> None:
        try:
            super().handle_one_response()
        finally:
            if not self._rest.pending:
                # pywsgi passes over the error, and would take the rest of the body for a request.
                self.close_connection = True
            self._rest.close()


def serve(
    host: str,
    port: int,
    *,
    ready: Callable[[int, str], object],
    simulated: bool = False,
    user: str | None = None,
    **how: Any,
) -> str:
    """Serve until SIGINT or SIGTERM, and return "", or until Xen is lost for good, and return why.

    `host`, an IP address, and `port`: where. `ready(port, engine)` is called when browsers are answered. `simulated`:
    show a lively simulated host. `user`: become that user once all is open. The rest goes to the Application.

    Raises OSError if there is no listening there, GxlError if Xen can't be opened, and what privileges.become does.
    """
    stop = Event()
    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(gevent.signal_handler(number, stop.set).cancel)
        # First of all, since only this is likely to fail.
        listener = _listen(host, port)
        stack.callback(listener.close)
        ctx, world = _open(simulated, recover=user is None)
        stack.enter_context(ctx)
        if world is not None:
            how = how | {"eject": world.eject_disk}
        application = Application(ctx, **how)
        stack.callback(application.close)
        if world is not None:
            stack.callback(Lively(world, ctx, application.show).close)
        if user is not None:
            _rehearse(application, how.get("token"))
            become(user)
        server = _server(listener, application)
        server.start()
        stack.callback(server.stop, 1)
        stack.callback(application.close)  # ends the streams: what is left is soon done
        ready(listener.getsockname()[1], ctx.engine.version)
        gevent.wait([stop, application.over], count=1)
        return application.problem


def _open(simulated: bool, recover: bool) -> tuple[Context, SimHost | None]:
    if not simulated:
        # Opening Xen again takes the privileges that opening it took: without them, the end is better known.
        return Context(hub="gevent", recover=recover), None
    host = SimHost()
    return Context(EmbeddedEngine(host), "gevent"), host


def _rehearse(application: Application, token: str | None) -> None:
    """Ask for everything once. Much is imported when it is first needed, perhaps from where the user may not read."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    asked = [("GET", path) for path in ("/", "/static/page.js", "/health", "/metrics", "/api/domains", "/api/stream")]
    for method, path in (*asked, ("GET", "/nothing"), ("POST", f"/api/domains/{UUID(int=0)}/shutdown")):
        response = Response.from_app(application, create_environ(path, method=method, headers=headers, data="{}"))
        next(response.iter_encoded())
        response.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=1024)
    listener.setblocking(False)
    return listener


def _server(listener: socket.socket, application: Application) -> WSGIServer:
    # Each browser that follows is an open file. The usual limit is 1024, which everybody may raise for himself.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    errors = LoggingLogAdapter(logging.getLogger("gxl.web"), logging.WARNING)
    # Without a name, pywsgi asks DNS for one, in a thread.
    name = {"SERVER_NAME": listener.getsockname()[0]}
    return WSGIServer(
        listener, application, spawn=Pool(CONNECTIONS), log=None, error_log=errors, handler_class=_Handler, environ=name
    )
