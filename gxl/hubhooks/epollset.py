# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many fds that an event loop sees as one: an epoll set, itself an fd that is readable while any of its fds is ready.

A provider watches this one fd instead of an engine's many, because that is where loops differ, and where they end the
process. libev and libuv abort when the kernel refuses an fd that was closed; libev never reports POLLPRI; libuv turns
POLLERR into a negative number and is deaf from then on, gives every watcher of an fd the union of all masks, and
rejects regular files; asyncio takes one reader per fd. The set costs one more system call per wake-up, about 1 us.

Closes by posix.close: monkey-patching replaces os.close by one that closes in the loop's next turn.
"""

from __future__ import annotations

import os
import posix
import select
from collections.abc import Callable
from typing import Any

from gxl.arguments import check_fd
from gxl.errors import MisuseError
from gxl.shield import hold, let_go
from gxl.unpatched import unpatched

# What the kernel calls (token, fd, events, revents).
Tell = Callable[[Any, int, int, int], object]

_POLL_BITS = select.POLLIN | select.POLLPRI | select.POLLOUT | select.POLLERR | select.POLLHUP | select.POLLRDHUP
_ALWAYS_REPORTED = select.POLLERR | select.POLLHUP
_BATCH = 64


def native_epoll() -> Callable[[], select.epoll]:
    """select.epoll, also where gevent has taken it out of the module, lest somebody block by it; nobody does here."""
    if hasattr(select, "epoll"):
        return select.epoll
    epoll: Callable[[], select.epoll] = unpatched("select").epoll
    return epoll


class Interest:
    """One registration of an fd. Made by EpollSet.watch."""

    __slots__ = ("events", "fd", "tell", "token", "watched")

    def __init__(self, watched: Watched, events: int, token: object, tell: Tell) -> None:
        self.watched: Watched | None = watched
        """None once the registration is over."""
        self.fd = watched.fd
        self.events = events
        self.token = token
        self.tell = tell


class Watched:
    """One fd, and all who are interested in it."""

    __slots__ = ("fd", "interests", "key", "mask")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.key = fd
        """Its number in the epoll set: another one if something stands in for it."""
        self.mask = 0
        self.interests: list[Interest] = []

    def union(self, but: Interest | None = None) -> int:
        mask = 0
        for interest in self.interests:
            if interest is not but:
                mask |= interest.events
        return mask


class EpollSet:
    """Registrations of fds, any number per fd, with what IOSEventHooks promises of them.

    `report` takes what a callback raises: nothing escapes from dispatch().
    """

    def __init__(self, make_epoll: Callable[[], select.epoll], report: Callable[[BaseException], object]) -> None:
        self._epoll = make_epoll()
        self._pid = os.getpid()
        self._report = report
        self._table: dict[int, Watched] = {}

    def fileno(self) -> int:
        """The fd to watch for reading: while it is readable, call dispatch()."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Ends all registrations. In a forked child this leaves the parent's set as it is."""
        for key, watched in self._table.items():
            for interest in watched.interests:
                interest.watched = None
            if key != watched.fd:
                posix.close(key)
        self._table.clear()
        self._epoll.close()

    def watch(self, fd: int, events: int, token: object, tell: Tell) -> Interest:
        """From now on dispatch() calls tell(token, fd, events, revents) while `fd` is ready for any of `events`.

        Raises OSError, and has changed nothing, if the kernel refuses the fd.
        """
        watched = self._table.get(check_fd(fd)) or Watched(fd)
        mask = watched.mask | _check_events(events)
        try:
            self._arm(watched, mask)
        except FileNotFoundError:
            # The fd was closed without a word, and its number is another file's by now.
            watched.mask = 0
            self._arm(watched, mask)
        interest = Interest(watched, events, token, tell)
        watched.interests.append(interest)
        self._table[fd] = watched
        return interest

    def change(self, interest: Interest, events: int) -> None:
        """Watch for `events` instead. Raises OSError, and has changed nothing, if the kernel refuses."""
        watched = interest.watched
        if watched is None:
            raise MisuseError(f"fd {interest.fd} is not registered any more")
        self._arm(watched, watched.union(but=interest) | _check_events(events))
        interest.events = events

    def forget(self, interest: Interest) -> None:
        """End the registration, at once: the fd may be closed and its number reused next. Can't fail; idempotent."""
        watched, interest.watched = interest.watched, None
        if watched is None:
            return
        watched.interests.remove(interest)
        try:
            self._arm(watched, watched.union())
        except OSError:
            pass  # closed already, against the rules, and so out of the set
        if not watched.interests:
            del self._table[watched.fd]
            if watched.key != watched.fd:
                del self._table[watched.key]
                posix.close(watched.key)

    def _arm(self, watched: Watched, mask: int) -> None:
        if os.getpid() != self._pid:
            pass  # a forked child has the same set as its parent: what it took out, the parent would miss
        elif not mask:
            # Out of the set: epoll reports errors and hang-ups even to an empty mask, for ever.
            if watched.mask:
                self._epoll.unregister(watched.key)
        elif watched.key != watched.fd:
            if not watched.mask:
                self._epoll.register(watched.key, select.POLLIN)
        elif watched.mask:
            self._epoll.modify(watched.fd, mask)
        else:
            try:
                self._epoll.register(watched.fd, mask)
            except PermissionError:
                self._let_stand_in(watched)
        watched.mask = mask

    def _let_stand_in(self, watched: Watched) -> None:
        # A regular file: poll(2) finds it always ready, epoll refuses it. libxl saves domains to such, and waits to
        # write to them. An eventfd that is always readable takes its place.
        key = os.eventfd(1)
        try:
            self._epoll.register(key, select.POLLIN)
        except BaseException:
            posix.close(key)
            raise
        watched.key = key
        self._table[key] = watched

    def dispatch(self) -> None:
        """Call back for every fd that is ready now. Callbacks may watch, change, forget and close as they like."""
        try:
            holds = hold()
            try:
                self._dispatch()
            finally:
                if holds:
                    let_go()
        except BaseException as error:  # what a signal handler raised
            self._report(error)

    def _dispatch(self) -> None:
        # Looked up before the first callback: an fd that is registered by one, under a number of this batch, is not
        # what was ready.
        batch = []
        for key, revents in self._epoll.poll(0, _BATCH):
            found = self._table.get(key)
            if found is not None:
                for interest in found.interests:
                    batch.append((interest, revents))
        for interest, revents in batch:
            watched = interest.watched
            events = interest.events
            if watched is None or not events:
                continue
            ready = events if watched.key != watched.fd else revents & (events | _ALWAYS_REPORTED)
            if ready:
                try:
                    interest.tell(interest.token, interest.fd, events, ready)
                except BaseException as error:
                    self._report(error)


def _check_events(events: object) -> int:
    if isinstance(events, bool) or not isinstance(events, int):
        raise TypeError(f"events must be poll(2) bits, not {events!r}")
    if events & ~_POLL_BITS:
        raise ValueError(f"events {events:#x} has bits that poll(2) does not know")
    return events
