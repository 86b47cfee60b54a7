# SPDX-License-Identifier: LGPL-2.1-or-later
"""The embedded engine, connected to a xenstored that answers anything.

The worst that happens is what happens when a real one breaks: calls fail, and the engine reports a disaster.
"""

from __future__ import annotations

import select
import struct

from fuzz.choices import Choices
from gxl.engines.embedded import EmbeddedEngine
from gxl.errors import GxlError
from gxl.simhost import Connection, SimHost
from gxl.simhost.daemon import Daemon
from gxl.xenstore import Decoder, Operation


class _Liar(Connection):
    """Passes most requests on, and makes up the other answers. Once it owes an answer it hangs up."""

    def __init__(self, daemon: Daemon, domid: int) -> None:
        super().__init__(daemon, domid)
        self.choices = Choices(b"")
        self.decoder = Decoder()

    def send(self, data: bytes) -> int:
        for message in self.decoder.feed(data):
            kind = self.choices.number() % 8 if self.choices else 0
            if kind < 4:
                super().send(struct.pack("<4I", *message[:3], len(message.payload)) + message.payload)
                continue
            payload = self.choices.pick((b"", b"OK\0", b"ENOENT\0", b"eject", b"/local/domain/0/backend/vbd/1/1"))
            payload += self.choices.chunk()
            operation = self.choices.pick((message.operation, Operation.ERROR, Operation.WATCH_EVENT, 99))
            number = message.request_id if kind < 7 else self.choices.number()
            answer = struct.pack("<4I", operation, number, 0, len(payload)) + payload
            if kind == 6:
                answer = answer[: self.choices.number()]
            self._other.send(answer[:60000])
            if operation != message.operation or number != message.request_id or kind == 6:
                self._session.drop()
        return len(data)


class _Host(SimHost):
    def connect(self, domid: int = 0) -> Connection:
        return _Liar(self._daemon, domid)


def run(data: bytes) -> None:
    choices = Choices(data)
    with _Host() as host:
        domid = host.create_domain()
        host.add_disk(domid, "xvda")
        engine = EmbeddedEngine(host)
        disasters: list[str] = []

        class Hooks:
            event_occurs_mask = 0
            event_occurs = None

            def disaster(self, type: int, msg: str, errnoval: int) -> None:
                disasters.append(msg)

        engine.event_register_callbacks(Hooks())
        connection = engine._ctx.store._connection
        assert isinstance(connection, _Liar)
        connection.choices = choices
        poll = select.poll()
        try:
            for _ in range(20):
                action = choices.number() % 6
                if action == 0:
                    engine.evenable_domain_death(domid, 1)
                elif action == 1:
                    engine.evenable_disk_eject(domid, choices.pick(("xvda", "hdc", "51712")), 2)
                elif action == 2:
                    host.eject_disk(domid, "xvda")
                elif action == 3:
                    host.release()
                elif action == 4:
                    engine.domain_info(domid)
                else:
                    fds, _ = engine.osevent_beforepoll()
                    for fd, events in fds:
                        poll.register(fd, events)
                    ready = dict(poll.poll(0))
                    for fd, _ in fds:
                        poll.unregister(fd)
                    engine.osevent_afterpoll([(fd, events, ready.get(fd, 0)) for fd, events in fds])
                    while (event := engine.event_check()) is not None:
                        assert event.domid == domid
                        event.to_json()
        except GxlError:
            pass  # said in so many words
        finally:
            engine.ctx_free()
        assert len(disasters) <= 50, "one broken store, and no end of disasters"
