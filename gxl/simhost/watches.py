# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is told of which change. Finding the watches for a change costs the depth of its path, not their number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gxl.simhost.sessions import Session


class Watch:
    """One session's interest in a path. `strip` is how much of a path the session left out by watching relatively."""

    __slots__ = ("order", "path", "session", "strip", "token")

    def __init__(self, session: Session, path: bytes, token: bytes, strip: int, order: int) -> None:
        self.session = session
        self.path = path
        self.token = token
        self.strip = strip
        self.order = order

    def event(self, path: bytes) -> bytes:
        """The payload that reports a change of `path`."""
        return path[self.strip :] + b"\0" + self.token + b"\0"


class WatchTable:
    """Every watch of every session."""

    def __init__(self) -> None:
        self._by_path: dict[bytes, dict[Watch, None]] = {}
        self._count = 0

    def add(self, session: Session, path: bytes, token: bytes, strip: int) -> Watch:
        self._count += 1
        watch = Watch(session, path, token, strip, self._count)
        self._by_path.setdefault(path, {})[watch] = None
        return watch

    def discard(self, watch: Watch) -> None:
        watches = self._by_path[watch.path]
        del watches[watch]
        if not watches:
            del self._by_path[watch.path]

    def on(self, path: bytes, exact: bool) -> list[Watch]:
        """The watches that a change of `path` concerns, in the order in which xenstored reports to them."""
        if not self._by_path:
            return []
        found: list[Watch] = []
        for name in (path,) if exact else _and_above(path):
            found.extend(self._by_path.get(name, ()))
        if len(found) > 1:
            found.sort(key=lambda watch: (watch.session.number, watch.order))
        return found


def _and_above(path: bytes) -> Iterator[bytes]:
    yield path
    end = len(path)
    while (end := path.rfind(b"/", 1, end)) > 0:
        yield path[:end]
    if path != b"/" and path[:1] == b"/":
        yield b"/"
