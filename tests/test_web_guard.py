# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is answered: by host, by origin and by token."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from web_client import TOKEN, bearer
from werkzeug.test import Client

import gxl
from gxl.engines.embedded import EmbeddedEngine
from gxl.web import Application

PRIVATE = ["/api/domains", "/api/events", "/api/stream", "/metrics"]
OPEN = ["/", "/static/page.js", "/health"]
ACT = f"/api/domains/{UUID(int=5)}/destroy"


@pytest.fixture
def ctx() -> Iterator[gxl.Context]:
    with gxl.Context(EmbeddedEngine(), "gevent") as ctx:
        yield ctx


def client(ctx: gxl.Context, **how: Any) -> Client:
    return Client(Application(ctx, **{"token": TOKEN, "allow": ["destroy"], **how}))


def status(client: Client, path: str, method: str = "GET", **headers: str) -> int:
    answer = client.open(path, method=method, headers={name.replace("_", "-"): text for name, text in headers.items()})
    if path == "/api/stream" and answer.status_code == 200:
        next(answer.iter_encoded())
    answer.close()
    return answer.status_code


@pytest.mark.parametrize("path", PRIVATE)
@pytest.mark.parametrize("given", [None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer tök"])
def test_what_is_private_is_not_shown_without_the_token(ctx: gxl.Context, path: str, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    answer = client(ctx).get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].lower().startswith("bearer")
    assert "domid" not in answer.text


@pytest.mark.parametrize("given", ["Basic \xff", "Basic =", 'Digest a="', "Bearer a=b", "=", " "])
def test_an_authorization_that_is_none_is_refused_like_a_wrong_token(ctx: gxl.Context, given: str) -> None:
    assert status(client(ctx), "/api/domains", Authorization=given) == 401


@pytest.mark.parametrize(
    "token", ["0123456789ab=cdef", "0123456789abcdef==", 'a="0123456789",b=c', "Bearer-0123456789"]
)
def test_every_token_that_is_taken_opens(ctx: gxl.Context, token: str) -> None:
    assert status(client(ctx, token=token), "/api/domains", **bearer(token)) == 200
    assert status(client(ctx, token=token), "/api/domains", **bearer(token + "=")) == 401


@pytest.mark.parametrize("path", [*PRIVATE, *OPEN])
def test_with_the_token_all_is_shown(ctx: gxl.Context, path: str) -> None:
    assert status(client(ctx), path, **bearer()) == 200


@pytest.mark.parametrize("path", OPEN)
def test_what_tells_nothing_needs_no_token(ctx: gxl.Context, path: str) -> None:
    assert status(client(ctx), path) == 200


@pytest.mark.parametrize("path", PRIVATE)
def test_looking_can_be_open_to_all_while_acting_is_not(ctx: gxl.Context, path: str) -> None:
    public = client(ctx, private=False)
    assert status(public, path) == 200
    assert status(public, ACT, "POST") == 401
    assert status(public, ACT, "POST", **bearer()) == 404


def test_a_token_in_the_query_string_counts_for_nothing(ctx: gxl.Context) -> None:
    assert status(client(ctx), f"/api/domains?token={TOKEN}&access_token={TOKEN}") == 401


def test_without_a_token_nothing_can_be_done(ctx: gxl.Context) -> None:
    assert status(client(ctx, token=None, allow=()), ACT, "POST", Authorization="Bearer None") == 401


def test_tokens_are_compared_in_constant_time(ctx: gxl.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert status(client(ctx), "/api/domains", Authorization="Bearer guess") == 401
    assert compared == [(b"guess", TOKEN.encode())]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", 200),
        ("localhost:8484", 200),
        ("LOCALHOST", 200),
        ("gxl.localhost:80", 200),
        ("127.0.0.1:8484", 200),
        ("192.0.2.7", 200),
        ("[::1]:8484", 200),
        ("xen1.example.org", 200),
        ("XEN1.example.org:443", 200),
        ("evil.example.net", 421),
        ("evil.example.net:8484", 421),
        ("xen1.example.org.evil.example.net", 421),
        ("localhost.evil.example.net", 421),
        ("127.0.0.1.evil.example.net", 421),
        ("", 400),
        ("localhost:8484:1", 400),
        ("user@localhost", 400),
        ("local host", 400),
        ("[::1", 400),
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/domains", "/health", "/nothing"])
def test_only_requests_for_a_host_of_ours_are_answered(ctx: gxl.Context, host: str, expected: int, path: str) -> None:
    answered = status(client(ctx, hosts=["xen1.example.org"]), path, Host=host, **bearer())
    assert answered == (404 if (path, expected) == ("/nothing", 200) else expected)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "https://localhost", "Sec-Fetch-Site": "same-origin"}, 200),  # TLS ends at a server before ours
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://evil.example.net"}, 403),
        ({"Origin": "http://localhost:81"}, 403),
        ({"Origin": "http://localhost.evil.example.net"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
    ],
)
@pytest.mark.parametrize("path", ["/", "/static/page.js", "/api/domains", "/api/stream", "/metrics"])
def test_requests_from_other_origins_are_refused_even_with_the_token(
    ctx: gxl.Context, headers: dict[str, str], expected: int, path: str
) -> None:
    assert status(client(ctx), path, **headers, **bearer()) == expected


def test_acting_is_refused_to_other_origins_and_so_is_asking_whether_one_may(ctx: gxl.Context) -> None:
    foreign = {"Origin": "http://evil.example.net"}
    assert status(client(ctx), ACT, "POST", **foreign, **bearer()) == 403
    assert status(client(ctx), ACT, "OPTIONS", **foreign, Access_Control_Request_Method="POST") == 403


def test_a_link_on_another_page_leads_to_the_page_and_to_nothing_that_acts(ctx: gxl.Context) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert status(client(ctx), "/", **followed) == 200
    assert status(client(ctx), ACT, "POST", **followed, **bearer()) == 403


def test_a_large_body_is_refused_unread(ctx: gxl.Context) -> None:
    host = client(ctx, allow=["eject"])
    domid = ctx.engine.host.create_domain()  # type: ignore[attr-defined]  # the embedded engine's own
    address = f"/api/domains/{ctx.engine.domain_info(domid).uuid}/eject"
    assert host.post(address, data=b"x" * 10_000, content_type="application/json", headers=bearer()).status_code == 413


def test_a_body_that_nests_too_deeply_is_refused_like_any_that_is_wrong(ctx: gxl.Context) -> None:
    host = client(ctx, allow=["eject"])
    domid = ctx.engine.host.create_domain()  # type: ignore[attr-defined]  # the embedded engine's own
    address = f"/api/domains/{ctx.engine.domain_info(domid).uuid}/eject"
    answer = host.post(address, data=b"[" * 4000, content_type="application/json", headers=bearer())
    assert answer.status_code == 400
    assert "hdc" in answer.text
