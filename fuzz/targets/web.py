# SPDX-License-Identifier: LGPL-2.1-or-later
"""The web toolstack: raw HTTP, with any request line, headers, tokens, Last-Event-ID and body.

Every answer is one of HTTP's, none is a server error, no header is made of what the client sent, and nothing happens to
a domain unless the right token came with the request.
"""

from __future__ import annotations

import io
import re
from typing import Any
from uuid import UUID

import gevent
from gevent import socket

from fuzz.choices import Choices
from gxl import Context, SimHost
from gxl.engines.embedded import EmbeddedEngine
from gxl.web import Application
from gxl.web.service import _listen, _server

_TOKEN = "correct-horse-battery"
_UUID = "00000000-0000-0000-0000-000000000005"
_METHODS = (b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"get", b"\xff", b"")
_PATHS = (
    *(b"/", b"/static/index.html", b"/static/../guard.py", b"/static/%2e%2e%2fguard.py", b"/health", b"/metrics"),
    *(b"/api/domains", b"/api/events", b"/api/stream", b"/api/domains/%s/destroy" % _UUID.encode()),
    *(b"/api/domains/%s/shutdown" % _UUID.encode(), b"/api/domains/%s/eject" % _UUID.encode(), b"//", b"*", b"/%"),
    *(b"http://localhost/", b"/api/domains?x=%0d%0aSet-Cookie:%20a=b", b"/%00", b"/\xe2\x80\xae", b"/" + b"a" * 3000),
)
_HEADERS = (
    *(b"Host: localhost", b"Host: evil.example", b"Host: localhost:1:2", b"Host:", b"Origin: http://evil.example"),
    *(b"Authorization: Bearer " + _TOKEN.encode(), b"Authorization: Bearer x", b"Authorization: Basic eDp4"),
    *(
        b"Authorization: Bearer \xff",
        b"Last-Event-ID: 1",
        b"Last-Event-ID: 99999999999999999999-1",
        b"Last-Event-ID: -",
    ),
    *(b"Last-Event-ID: \xff\x00", b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999"),
    *(b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Connection: keep-alive", b"Range: bytes=0-,5-1"),
    *(
        b"Content-Type: application/json",
        b"If-None-Match: *",
        b"Accept-Encoding: gzip",
        b"X-Forwarded-Host: evil",
        b": ",
    ),
    *(
        b"Sec-Fetch-Site: cross-site",
        b"Cookie: a=b",
        b"Accept: text/event-stream",
        b"A" * 9000 + b": 1",
        b"folded\r\n x",
    ),
)
_BODIES = (
    b"",
    b'{"vdev": "hdc"}',
    b'{"vdev": 5}',
    b"[" * 3000,
    b"5\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"\0" * 5000,
)


def _request(choices: Choices) -> bytes:
    if choices.number() % 8 == 0:
        return choices.rest()
    version = choices.pick((b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/9.9", b""))
    lines = [b" ".join((choices.pick(_METHODS), choices.pick(_PATHS) + choices.chunk()[:20], version))]
    lines += [choices.pick(_HEADERS) if choices.number() % 8 else choices.chunk() for _ in range(choices.number() % 6)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + choices.pick(_BODIES)


def run(data: bytes) -> None:
    sent = _request(Choices(data))
    with SimHost() as host, Context(EmbeddedEngine(host), "gevent") as ctx:
        host.create_domain("web\r\nSet-Cookie: a=b\x1b[2J</script>", uuid=UUID(_UUID))
        application = Application(ctx, token=_TOKEN, allow=("shutdown", "destroy"), heartbeat=0.05)
        listener = _listen("127.0.0.1", 0)
        try:
            # types-gevent has it that the address is text.
            handle: Any = _server(listener, application).handle
            client, accepted = socket.socketpair()
            serving = gevent.spawn(handle, accepted, ("127.0.0.1", 1))
            answer = _answer(client, sent)
            serving.join(timeout=10)
            assert serving.ready(), "the server does not come to an end with this client"
            serving.get()
        finally:
            application.close()
            listener.close()
        _check(sent, answer)
        if _TOKEN.encode() not in sent:
            assert host.domain_info(1).running, "a domain was acted upon without the token"


def _answer(client: socket.socket, sent: bytes) -> bytes:
    answer = io.BytesIO()
    with client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(0.1)  # a stream goes on for ever: its beginning will do
        try:
            while len(answer.getvalue()) < 1 << 20 and (part := client.recv(65536)):
                answer.write(part)
        except OSError:
            pass
    return answer.getvalue()


def _check(sent: bytes, answer: bytes) -> None:
    if not answer:
        return
    status = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    assert status, f"not HTTP: {answer[:100]!r}"
    assert int(status[1]) != 500, answer[:500].decode("latin-1")
    head = answer.partition(b"\r\n\r\n")[0]
    assert b"set-cookie" not in head.lower(), "a header that the client or a guest made up"
    assert _TOKEN.encode() not in answer
