# SPDX-License-Identifier: LGPL-2.1-or-later
"""gxl's own xenstore client, as a Context uses it, against a store that sends anything.

It reports the loss of such a store once, answers each question for a name once, and lets nothing escape.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from zope.interface import implementer

from fuzz.choices import Choices
from gxl.interfaces import IStoreConnection
from gxl.sidechannel import SideChannel
from gxl.xenstore import Operation

_FD = os.eventfd(0)


@implementer(IStoreConnection)
class _Connection:
    def __init__(self, choices: Choices) -> None:
        self._choices = choices

    def fileno(self) -> int:
        return _FD

    def send(self, data: bytes) -> int:
        room = self._choices.number()
        if room == 0:
            raise BlockingIOError
        if room == 1:
            raise BrokenPipeError
        return min(len(data), room)

    def recv(self, size: int) -> bytes:
        choices = self._choices
        if not choices:
            return b""
        kind = choices.number() % 8
        if kind == 0:
            raise BlockingIOError
        if kind == 1:
            return choices.chunk()
        operation = choices.pick((Operation.READ, Operation.WATCH, Operation.WATCH_EVENT, Operation.ERROR, 99))
        payload = choices.pick((b"@introduceDomain\0gxl\0", b"ENOENT\0", b"OK\0", b"web\x1b[2J\n")) + choices.chunk()
        return struct.pack("<4I", operation, choices.number() % 8, 0, len(payload)) + payload

    def close(self) -> None:
        pass


class _Hooks:
    """As IOSEventHooks: what is registered is nothing."""

    def fd_register(self, fd: int, events: int, for_libxl: object) -> object:
        return self

    def fd_modify(self, fd: int, registration: object, events: int) -> object:
        return registration

    def fd_deregister(self, fd: int, registration: object) -> None:
        pass

    def timeout_register(self, abs: float, for_libxl: object) -> object:
        return self

    def timeout_modify(self, registration: object, abs: float) -> object:
        return registration

    def timeout_deregister(self, registration: object) -> None:
        pass


def run(data: bytes) -> None:
    choices = Choices(data)
    lost: list[str] = []
    due: list[Callable[[], object]] = []
    names: list[list[str | None]] = []
    side = SideChannel(
        _Connection(choices),
        _Hooks(),  # type: ignore[arg-type]
        lambda why, since, hung: lost.append(why),
        lambda: None,
        due.append,
    )
    for _ in range(100):
        if lost:
            break
        action = choices.number() % 8
        if action == 0 and len(names) < 20:
            answers: list[str | None] = []
            names.append(answers)
            side.name_of(len(names), answers.append)
        elif action == 1:
            side.ping()
        elif action == 2:
            side.catch_up()
        elif due:
            due.pop(0)()
        else:
            side.ready()
    side.close()
    for call in due:
        call()
    side.ready()
    side.ping()
    assert len(lost) <= 1, f"lost several times: {lost}"
    assert all(len(answers) <= 1 for answers in names), "a name was answered twice"
    for answers in names:
        for name in answers:
            assert name is None or name.encode() is not None  # no lone surrogates, which can't be written anywhere
