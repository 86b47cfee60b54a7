# SPDX-License-Identifier: LGPL-2.1-or-later
"""The simulated host's xenstored: its store, the sessions on it, their watches, and the domains it knows of."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from threading import RLock

from gxl.simhost import requests
from gxl.simhost.sessions import Session
from gxl.simhost.store import Store
from gxl.simhost.tree import READ, Node, Permission, Permissions
from gxl.simhost.watches import Watch, WatchTable
from gxl.xenstore import Message

INTRODUCE_DOMAIN = b"@introduceDomain"
RELEASE_DOMAIN = b"@releaseDomain"


class Daemon:
    """xenstored. `on_served` is called after each request, `on_change(path)` with each changed path.

    `exists` tells whether the hypervisor has a domain, `take_failure` with which errno a request must fail, if any.
    """

    def __init__(self, lock: RLock, exists: Callable[[int], bool], take_failure: Callable[[str], int]) -> None:
        self.lock = lock
        self._exists = exists
        self.store = Store(self._store_changed)
        self.take_failure = take_failure
        self.on_change: Callable[[bytes], None] = lambda path: None
        self.on_served: Callable[[], None] = lambda: None
        self.stalled = 0
        self.special: dict[bytes, Permissions] = {
            name: (Permission(0, 0),) for name in (INTRODUCE_DOMAIN, RELEASE_DOMAIN)
        }
        # Which guest a stub domain may act for.
        self.targets: dict[int, int] = {}
        self._watches = WatchTable()
        self._sessions: dict[int, Session] = {}
        self._connected = 0
        # Per introduced domain, whether its shutdown was already reported.
        self._introduced: dict[int, bool] = {0: False}
        self._quiet = 0
        self._held_events: dict[tuple[Watch, bytes], None] = {}

    def connect(self, sock: socket.socket, domid: int = 0) -> Session:
        """Serve the client at the other end of `sock`, as a tool in dom0 or as the guest `domid`."""
        self._connected += 1
        session = self._sessions[self._connected] = Session(self, sock, self._connected, domid)
        return session

    def serve(self, session: Session, message: Message) -> None:
        """Serve one request."""
        requests.serve(self, session, message)
        self.on_served()

    def sessions(self) -> list[Session]:
        return list(self._sessions.values())

    def forget(self, session: Session) -> None:
        """The session is closed; what it left here goes with it."""
        self._sessions.pop(session.number, None)
        self.unwatch_all(session)
        session.transactions.clear()

    def watch(self, session: Session, path: bytes, token: bytes, strip: int) -> None:
        """Add a watch, which fires once at once."""
        watch = session.watches[path, token] = self._watches.add(session, path, token, strip)
        self._report([(watch, path)])

    def unwatch(self, session: Session, path: bytes, token: bytes) -> bool:
        watch = session.watches.pop((path, token), None)
        if watch is None:
            return False
        self._watches.discard(watch)
        return True

    def unwatch_all(self, session: Session) -> None:
        for watch in session.watches.values():
            self._watches.discard(watch)
        session.watches.clear()

    def knows(self, domid: int) -> bool:
        """Whether nodes may be owned by this domain, or shared with it."""
        if not self.store.knows_domain(domid) and self._exists(domid):
            self.store.domain_appeared(domid)
        return self.store.knows_domain(domid)

    def is_introduced(self, domid: int) -> bool:
        return domid in self._introduced

    def introduce(self, domid: int) -> None:
        """Talk to the domain from now on, as far as a simulated domain talks."""
        if domid not in self._introduced:
            self._introduced[domid] = False
            self._fire(INTRODUCE_DOMAIN)

    def domain_shut_down(self, domid: int) -> None:
        """The hypervisor says that a domain is shut down: reported once, until `resume`."""
        if self._introduced.get(domid) is False:
            self._introduced[domid] = True
            self._fire(RELEASE_DOMAIN)

    def resume(self, domid: int) -> None:
        if domid in self._introduced:
            self._introduced[domid] = False

    def release(self, domid: int) -> None:
        """Stop talking to the domain: it dies, or a tool asked for it. What it owns in the store is removed."""
        if self._introduced.pop(domid, None) is not None:
            for session in self.sessions():
                if session.domid == domid:
                    session.drop()
            self.targets.pop(domid, None)
            self.store.domain_gone(domid)
            for name, permissions in self.special.items():
                self.special[name] = tuple(entry for entry in permissions if entry.domid != domid) or (
                    Permission(0, 0),
                )
            self._fire(RELEASE_DOMAIN)

    def fire_release(self) -> None:
        """Fire @releaseDomain though nothing happened; watchers must expect that."""
        self._fire(RELEASE_DOMAIN)

    def hush(self) -> None:
        """Keep watch events back until `speak` is called as often."""
        self._quiet += 1

    def speak(self) -> None:
        """Report what was kept back, each watch and path once, when it would have fired last."""
        self._quiet -= 1
        if not self._quiet:
            held, self._held_events = self._held_events, {}
            self._report(held)

    def stall(self) -> None:
        """Accept requests, but answer and report nothing until `catch_up` is called as often."""
        self.stalled += 1

    def catch_up(self) -> None:
        """Serve and send what waits."""
        self.stalled -= 1
        if not self.stalled:
            for session in self.sessions():
                session.feed(b"")
                session.flush()
                if session.on_blocked is not None:
                    session.on_blocked()

    def _store_changed(self, path: bytes, exact: bool, nodes: tuple[Node, ...]) -> None:
        watches = self._watches.on(path, exact)
        if watches:
            self._report((watch, path) for watch in watches if self._may_see(watch, nodes))
        self.on_change(path)

    def _may_see(self, watch: Watch, nodes: tuple[Node, ...]) -> bool:
        caller = watch.session.caller
        return any(self.store.allowed(caller, node) & READ for node in nodes)

    def _fire(self, name: bytes) -> None:
        permissions = self.special[name]
        self._report(
            (watch, name)
            for watch in self._watches.on(name, exact=True)
            if self.store.rights(watch.session.caller, permissions, 1 << 62) & READ
        )

    def _report(self, events: Iterable[tuple[Watch, bytes]]) -> None:
        if self._quiet:
            for event in events:
                # To the end: what is told once is told when it holds. The @releaseDomain by which the end of a new
                # domain shows comes after its @introduceDomain, whatever fired it before.
                self._held_events.pop(event, None)
                self._held_events[event] = None
            return
        # Watches that differ in their paths only make the same event of one change; it is told once.
        told: set[tuple[Session, bytes]] = set()
        for watch, path in events:
            session, payload = watch.session, watch.event(path)
            if session.watches.get((watch.path, watch.token)) is watch and (session, payload) not in told:
                told.add((session, payload))
                session.event(payload)
