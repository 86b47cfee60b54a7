# SPDX-License-Identifier: LGPL-2.1-or-later
"""The WSGI application: what each address answers, and to whom."""

from __future__ import annotations

import errno
import json
import logging
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import gevent
from gevent.event import Event as Flag
from prometheus_client import CollectorRegistry, make_wsgi_app
from werkzeug import Request, Response
from werkzeug.exceptions import (
    BadGateway,
    BadRequest,
    Forbidden,
    GatewayTimeout,
    HTTPException,
    InternalServerError,
    NotFound,
    RequestTimeout,
    ServiceUnavailable,
)
from werkzeug.routing import Map, Rule

from gxl import prometheus
from gxl.arguments import check_vdev
from gxl.context import Context
from gxl.errors import GxlError, LibxlError, MisuseError, WaitTimeout
from gxl.events import Event
from gxl.hubhooks.gevent import GeventBinding
from gxl.web.board import Board, Cursor, message
from gxl.web.collector import BoardCollector
from gxl.web.guard import Guard

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_log = logging.getLogger("gxl.web")

ACTIONS = ("shutdown", "destroy", "eject")
STALLED = 60.0
"""Seconds after which a browser that takes nothing is sent away."""
PATIENCE = 90.0
"""Seconds that an action may take; libxl itself gives a guest one minute to acknowledge a shutdown."""

_PAGE = Path(__file__).parent / "page"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_ROUTES = Map(
    [
        Rule("/", endpoint="page", methods=["GET"]),
        Rule("/static/<name>", endpoint="static", methods=["GET"]),
        Rule("/health", endpoint="health", methods=["GET"]),
        Rule("/metrics", endpoint="metrics", methods=["GET"]),
        Rule("/api/domains", endpoint="domains", methods=["GET"]),
        Rule("/api/events", endpoint="events", methods=["GET"]),
        Rule("/api/stream", endpoint="stream", methods=["GET"]),
        Rule(f"/api/domains/<uuid:uuid>/<any({','.join(ACTIONS)}):action>", endpoint="act", methods=["POST"]),
    ],
    redirect_defaults=False,
)
_OPEN = ("page", "static", "health")
_HEADERS = {
    # Everything is a file of ours: no script, style or image in the page itself, nor from anywhere else.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Application:
    """Shows the domains of a Context's host, and their events, to browsers and programs.

    `ctx`: a Context on gevent's hub. The application has a watcher of its own on it, and takes nobody's events. It
    belongs to the process and thread of the Context: where a server forks, make both in its children.

    `token`: what a request must carry as `Authorization: Bearer TOKEN`; at least 16 characters. `private`: whether
    looking needs the token too; acting always does. `allow`: what may be done to domains: any of "shutdown", "destroy"
    and "eject". `hosts`: the names by which browsers know this server, apart from localhost and IP addresses: a request
    for another name is refused. `eject(domid, vdev)`: what an eject does; None: it takes the medium out of the drive,
    Context.cdrom_insert with None, which libxl only does for HVM domains. `heartbeat`: seconds between signs of life.

    Raises MisuseError for a Context on another hub, ValueError for actions without a token.
    """

    def __init__(
        self,
        ctx: Context,
        *,
        token: str | None = None,
        private: bool = True,
        allow: Collection[str] = (),
        hosts: Collection[str] = (),
        eject: Callable[[int, str], object] | None = None,
        heartbeat: float = 15.0,
    ) -> None:
        if not isinstance(ctx, Context):
            raise TypeError(f"ctx must be a gxl.Context, not {ctx!r}")
        unknown = set(allow) - set(ACTIONS)
        if unknown:
            raise ValueError(f"allow may name {', '.join(ACTIONS)}, not {', '.join(map(repr, sorted(unknown)))}")
        if allow and token is None:
            raise ValueError(
                "what acts on domains needs a token: pass token=, at least 16 characters that nobody knows"
            )
        if not heartbeat > 0:
            raise ValueError(f"heartbeat must be more than 0 seconds, not {heartbeat!r}")
        self._guard = Guard(token, hosts)
        self._private = private and token is not None
        self._allow = tuple(action for action in ACTIONS if action in allow)
        self._ctx = ctx
        self._binding = ctx._pump.binding
        if not isinstance(self._binding, GeventBinding):
            raise MisuseError("this Context is not on gevent's hub: open it as gxl.Context(hub='gevent')")
        self._eject = self._take_out if eject is None else eject
        self._heartbeat = heartbeat
        # Read once: whoever gives up root may not be able to later, and no path is made of what a client sends.
        self._files = {path.name: path.read_bytes() for path in _PAGE.iterdir()}
        self._board = Board(ctx, heartbeat)
        registry = CollectorRegistry()
        registry.register(prometheus.Collector(ctx))
        registry.register(BoardCollector(self._board))
        self._exposition = make_wsgi_app(registry)

    @property
    def problem(self) -> str:
        """Why nothing new is shown, for now (an outage) or for good (a disaster); empty while all is well."""
        return self._board.problem

    @property
    def over(self) -> Flag:
        """Set once there is a problem for good. Can be given to gevent.wait."""
        return self._board.over

    def show(self, event: Event) -> None:
        """Show an event that the application got by itself, such as a DiskEject of an evgen of its own."""
        self._board.show(event)

    def close(self) -> None:
        """Stop following the host, and end the browsers' streams. The Context stays open. Idempotent."""
        self._board.close()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        request.max_content_length = 4096
        try:
            response = self._respond(request)
        except HTTPException as refusal:
            response = _refused(request, refusal)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        return response(environ, start_response)

    def _respond(self, request: Request) -> Response:
        try:
            self._binding.check_caller()
        except MisuseError as error:
            remedy = (
                f"the Context of this gxl.web.Application can't be used here: {error}. Under gunicorn use the worker "
                "class gevent, and open the Context in the worker: without preload_app, or in the hook "
                "post_worker_init"
            )
            _log.error("%s", remedy)
            raise InternalServerError(remedy) from error
        self._guard.check_source(request)
        if not request.environ.get("PATH_INFO"):
            # Mounted at a prefix, asked for without the slash that the page's relative addresses need.
            return Response(status=308, headers={"Location": f"{request.root_path}/"})
        endpoint, arguments = _ROUTES.bind_to_environ(request.environ).match()
        if endpoint == "act" or (self._private and endpoint not in _OPEN):
            self._guard.check_token(request)
        response: Response = getattr(self, f"_{endpoint}")(request, **arguments)
        return response

    def _page(self, request: Request) -> Response:
        return self._static(request, "index.html")

    def _static(self, request: Request, name: str) -> Response:
        found = self._files.get(name)
        if found is None:
            raise NotFound(f"there is no file {name!r}")
        response = Response(found, content_type=_TYPES[name.rpartition(".")[2]])
        response.add_etag()
        response.headers["Cache-Control"] = "no-cache"
        return response.make_conditional(request.environ)

    def _health(self, request: Request) -> Response:
        problem = self._board.problem
        return _json({"status": "failing" if problem else "ok"}, status=503 if problem else 200)

    def _metrics(self, request: Request) -> Response:
        return Response.from_app(self._exposition, request.environ)

    def _domains(self, request: Request) -> Response:
        if not self._board.problem:
            try:
                self._board.refresh()
            except GxlError as error:
                raise ServiceUnavailable(str(error)) from error
        return _json({"domains": self._board.domains()})

    def _events(self, request: Request) -> Response:
        return _json({"events": self._board.events()})

    def _stream(self, request: Request) -> Response:
        asked = request.headers.get("Last-Event-ID")
        last = None if asked is None else Cursor.parse(asked)
        resumed = last is not None and self._board.knows(last)
        greeting = {
            "resumed": resumed,
            "restarted": asked is not None and not resumed,
            "heartbeat": self._heartbeat,
            "host": socket.gethostname(),
            "engine": self._ctx.engine.version,
            "actions": self._allow,
        }
        cursor = last if resumed and last is not None else self._board.start()
        headers = {"X-Accel-Buffering": "no"}  # nginx would keep the events until it has a page of them
        return Response(self._messages(greeting, cursor), content_type="text/event-stream", headers=headers)

    def _messages(self, greeting: dict[str, Any], cursor: Cursor) -> Iterator[bytes]:
        board = self._board
        problem = ""
        messages = [message("hello", json.dumps(greeting))]
        with board.reading():
            while not board.closed:
                new, cursor = board.after(cursor)
                messages += new
                if problem != board.problem:
                    problem = board.problem
                    messages.append(message("problem", json.dumps({"problem": problem})))
                # What is yielded is written to the browser in this greenlet, and that may take as long as the browser
                # likes. An OSError is what servers expect of a broken connection.
                with gevent.Timeout(STALLED, BrokenPipeError(errno.EPIPE, "the browser takes nothing")):
                    yield b"".join(messages) if messages else b": still here\n\n"
                messages = []
                if not board.newer(cursor) and problem == board.problem and not board.closed:
                    board.wait()

    def _act(self, request: Request, uuid: UUID, action: str) -> Response:
        if action not in self._allow:
            raise Forbidden(f"{action} is not allowed here; allowed is {', '.join(self._allow) or 'nothing'}")
        vdev = _vdev(request) if action == "eject" else ""
        # A domid may be another domain's by now; a UUID is one domain's for ever. Nothing switches from here to where
        # the operation has begun.
        try:
            domid = next((info.domid for info in self._ctx.engine.list_domain() if info.uuid == uuid), None)
        except GxlError as error:
            raise ServiceUnavailable(str(error)) from error
        if domid is None:
            raise NotFound(f"no domain has the UUID {uuid}")
        if domid == 0:
            raise Forbidden("domain 0 is the host itself")
        _log.info("%s of domain %d (%s) asked for by %s", action, domid, uuid, request.remote_addr)
        try:
            if action == "shutdown":
                self._ctx.domain_shutdown(domid, timeout=PATIENCE)
            elif action == "destroy":
                self._ctx.domain_destroy(domid, timeout=PATIENCE)
            else:
                self._eject(domid, vdev)
        except WaitTimeout as error:
            raise GatewayTimeout(str(error)) from error
        except (LibxlError, OSError) as error:
            raise BadGateway(str(error)) from error
        except GxlError as error:
            raise ServiceUnavailable(str(error)) from error
        return _json({"done": action, "domid": domid, "uuid": str(uuid)})

    def _take_out(self, domid: int, vdev: str) -> None:
        self._ctx.cdrom_insert(domid, vdev, None, timeout=PATIENCE)


def _vdev(request: Request) -> str:
    try:
        with gevent.Timeout(STALLED, RequestTimeout()):
            content = request.get_json(silent=True)
    except RecursionError:  # brackets in brackets
        content = None
    vdev = content.get("vdev") if isinstance(content, dict) else None
    try:
        return check_vdev(vdev)
    except (TypeError, ValueError) as error:
        raise BadRequest(
            f'a JSON object with the name of a drive is needed, such as {{"vdev": "hdc"}}: {error}'
        ) from error


def _json(content: object, status: int = 200) -> Response:
    return Response(json.dumps(content) + "\n", status=status, content_type="application/json")


def _refused(request: Request, refusal: HTTPException) -> Response:
    """The same status and headers as werkzeug's own answer, but for programs."""
    response = Response.force_type(refusal.get_response(request.environ), request.environ)
    response.set_data(json.dumps({"error": refusal.description}) + "\n")
    response.content_type = "application/json"
    return response
