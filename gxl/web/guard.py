# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may ask: the host that a request is for, the page that it comes from, and the token that it carries.

A browser sends requests to a server on this machine for any page that asks it to. So a request must name a host that is
really ours (a name that an attacker's DNS turned to 127.0.0.1 is not), and must come from our own page, or from none.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection
from ipaddress import ip_address

from werkzeug import Request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import BadRequest, Forbidden, MisdirectedRequest, Unauthorized

SHORTEST_TOKEN = 16
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]@]+)(?::\d{1,5})?")


class Guard:
    """Refuses by raising werkzeug's HTTPExceptions, whose descriptions say why and what to do."""

    def __init__(self, token: str | None, hosts: Collection[str]) -> None:
        if isinstance(hosts, str):
            raise TypeError(f"hosts must be several names, such as [{hosts!r}], not one str")
        self._token = None if token is None else check_token(token).encode()
        self._hosts = {host.lower() for host in hosts}

    def check_source(self, request: Request) -> None:
        """The host and the origin. Navigating to the page is all that a foreign page may make a browser do."""
        found = _HOST.fullmatch(request.environ.get("HTTP_HOST", ""))
        if found is None:
            raise BadRequest("the request must have a Host header that names a host, and a port perhaps")
        if not self._ours(found[1].lower()):
            raise MisdirectedRequest(f"this server does not answer for {found[1]!r}: its owner can add the name")
        origin = request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2].lower() != found[0].lower():
            raise Forbidden(f"requests from other origins are refused, and this one is from {origin!r}")
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site not in ("same-origin", "none") and not _navigates(request):
            raise Forbidden(f"requests from other origins are refused, and this one is {site}")

    def check_token(self, request: Request) -> None:
        """The request carries the token. None does where there is no token."""
        # Not by request.authorization: werkzeug takes a token with a "=" in it for a list of parameters, and fails on
        # what should be base64 and is not.
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        # Compared in constant time: how long it takes must not tell how much of a guess was right.
        right = self._token is not None and hmac.compare_digest(text.strip().encode(), self._token)
        if scheme.lower() != "bearer" or not right:
            challenge = WWWAuthenticate("bearer", {"realm": "gxl"})
            raise Unauthorized("this needs the token, as `Authorization: Bearer TOKEN`", www_authenticate=challenge)

    def _ours(self, host: str) -> bool:
        if host == "localhost" or host.endswith(".localhost") or host in self._hosts:
            return True
        try:
            # Whoever wrote a number asked no DNS for it.
            ip_address(host.strip("[]"))
        except ValueError:
            return False
        return True


def check_token(token: str) -> str:
    """`token`, if it is one: printable ASCII without spaces, and too long to be guessed. ValueError otherwise."""
    if not isinstance(token, str):
        raise TypeError(f"token must be a str, not {type(token).__name__}")
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"a token needs at least {SHORTEST_TOKEN} printable ASCII characters and no space; this one has "
            f"{len(token)} characters"
        )
    return token


def _navigates(request: Request) -> bool:
    wanted = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    return request.method == "GET" and all(request.headers.get(name) == value for name, value in wanted.items())
