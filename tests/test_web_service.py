# SPDX-License-Identifier: LGPL-2.1-or-later
"""The server behind `gxl serve`, and clients that would hold it up: none keeps its connection by doing nothing."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest
from gevent import socket
from gevent.pywsgi import WSGIServer

import gxl
from gxl.engines.embedded import EmbeddedEngine
from gxl.web import Application, service

HEAD = b"Host: localhost\r\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WSGIServer]:
    monkeypatch.setattr(service, "IDLE", 0.5)
    monkeypatch.setattr(service, "SLOWEST", 0.5)
    with gxl.Context(EmbeddedEngine(), "gevent") as ctx:
        application = Application(ctx)
        server = service._server(service._listen("127.0.0.1", 0), application)
        server.start()
        with gevent.Timeout(60):
            yield server
        server.stop(1)
        application.close()


def connect(server: WSGIServer, sent: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.server_port))
    client.sendall(sent)
    return client


def all_of(client: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    got = b""
    try:
        while data := client.recv(65536):
            got += data
    except ConnectionResetError:
        pass  # it closed with something of ours unread
    return got


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"GET /hea", None),
        (b"GET /health HTTP/1.1\r\nHost: local", b"400"),
        (b"GET /health HTTP/1.1\r\n" + HEAD + b"\r\n", b"200"),
        (b"POST /health HTTP/1.1\r\n" + HEAD + b"Content-Length: 1000\r\n\r\n", b"405"),
        (b"POST /health HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"405"),
    ],
    ids=["nothing", "half a line", "half a head", "one request", "no body", "half a body"],
)
def test_who_falls_silent_is_sent_away(server: WSGIServer, sent: bytes, status: bytes | None) -> None:
    with connect(server, sent) as client:
        answer = all_of(client)
    assert answer.split()[1:2] == ([] if status is None else [status])


def test_who_sends_a_body_piece_by_piece_is_sent_away_and_no_piece_is_a_request(server: WSGIServer) -> None:
    piece = b"GET /health HTTP/1.1\r\n" + HEAD + b"\r\n"
    with connect(server, b"POST /health HTTP/1.1\r\n" + HEAD + b"Content-Length: 1000000\r\n\r\n") as client:
        answer = gevent.spawn(all_of, client)
        try:
            while not answer.ready():
                client.sendall(piece)
                gevent.sleep(0.05)
        except OSError:
            pass
        assert answer.get().count(b"HTTP/1.1 ") == 1


def test_who_takes_no_answer_is_sent_away_without_a_word(server: WSGIServer, capfd: pytest.CaptureFixture[str]) -> None:
    # More answers than the buffers of two sockets hold, on one connection, of which none is read.
    asked = (b"GET /static/page.js HTTP/1.1\r\n" + HEAD + b"\r\n") * 3000
    pool = server.pool
    assert pool is not None
    with connect(server, b"") as client:
        asking = gevent.spawn(client.sendall, asked)
        while not len(pool):
            gevent.sleep(0.01)
        while len(pool):
            gevent.sleep(0.05)
        gevent.kill(asking)
    assert capfd.readouterr().err == ""


def test_too_many_headers_are_refused_without_a_traceback(
    server: WSGIServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with connect(server, b"GET /health HTTP/1.1\r\n" + HEAD + b"X: y\r\n" * 200 + b"\r\n") as client:
        assert all_of(client).startswith(b"HTTP/1.1 400 ")
    assert "Traceback" not in capfd.readouterr().err
