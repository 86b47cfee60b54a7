# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an engine is: one libxl_ctx, and what comes with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from zope.interface import Attribute, Interface

from gxl.events import Event
from gxl.interfaces.values import AsyncHow, DomainInfo, NewDomain, Predicate


class IEvgen(Interface):
    """A handle on one enabled source of events, returned by evenable_* and taken by evdisable_*."""

    domid = Attribute("The domain, as given.")
    user = Attribute("The user value, as given: its events carry it as for_user.")


class IStoreConnection(Interface):
    """A connection to xenstored: the part of a non-blocking stream socket that a Context's side channel needs."""

    def fileno() -> int:
        """The fd to watch: readable when recv has something to say, the end of file included."""

    def recv(size: int) -> bytes:
        """Up to `size` bytes; b"" at the end of file; BlockingIOError when there is nothing yet."""

    def send(data: bytes) -> int:
        """Takes a part of `data` and returns how much; BlockingIOError when nothing can be taken now."""

    def close() -> None:
        """Closes the fd. Idempotent."""


class ISuccession(Interface):
    """Where engines on one host come from: what IEngine.succession returns. It outlives the engine that made it."""

    def xenstore_connect() -> IStoreConnection:
        """As IEngine.xenstore_connect, and like that it never waits: OSError if no connection can be had now."""

    def open() -> IEngine:
        """A new engine. EngineUnavailable if there can be none now.

        It may wait for a xenstored that accepts no connection: ask it something first, by one of your own.
        """


class IEngine(Interface):
    """One libxl_ctx. Method names are the header's without `libxl_`; C code ports to it line by line.

    An engine belongs to the process that opened it, and (but for event_wait) calls never block longer than libxl
    itself does. A call that libxl fails raises the LibxlError of its code. What would make the real library abort or
    crash raises MisuseError before it gets there.

    Code of the application's runs inside an engine call only where the header says so: predicates, event_occurs,
    reaped_callback and operation callbacks; and in hooks. An exception from one of them is kept until the engine call
    is over and raised from it (several: an ExceptionGroup), unless its own documentation says otherwise.

    After ctx_free, after postfork_child_noexec, and in a forked child, every call raises MisuseError. After a disaster
    that libxl can't carry on from, every call raises Disaster, but for succession, ctx_free, and what ends that which
    keeps the engine from being freed: ao_abort, childproc_reaped, osevent_occurred_* and evdisable_*.
    """

    name = Attribute("The engine's name, as in $GXL_ENGINE: 'libxl' or 'embedded'.")
    version = Attribute("What it is, for people: a library's file name and version.")
    dead = Attribute("None, or the Disaster that the engine can't carry on from.")
    hangup_fd = Attribute(
        """None, or an fd on which poll(2) reports POLLHUP once the engine's own connection to xenstored has ended.

        Only of a claimed engine, where that can be known and the engine would not notice by itself. To be watched, not
        read; ctx_free closes it.
        """
    )
    builder = Attribute(
        """None, or the name of the engine that another process opens to create and restore domains for this one.

        libxl builds a domain's memory inside the call that starts it, which is no call to make where a loop has to
        run. None where such a call takes no time.
        """
    )

    def claim(
        no_switch: Callable[[], AbstractContextManager[object]],
        later: Callable[[Callable[[], object]], object] | None = None,
    ) -> IEngine:
        """Take the engine over: a Context does this. Returns the engine to use from now on.

        `no_switch` is a hub's guard; the claimed engine runs hooks and other code of the application's inside libxl
        under it. `later` runs a function that may block, not from inside this call, as IHubBinding.spawn does: the
        claimed engine passes its log on there, since a log's handlers may block or switch. None: at the end of the
        call that logged. The object that was claimed stays usable for asynchronous operations and for domain_info,
        list_domain and xenstore_connect; its other methods raise MisuseError, since a second pump would steal events.
        Raises MisuseError if the engine is claimed, closed, or has hooks, evgens, operations or queued events already.
        """

    def event_check(typemask: int = ..., predicate: Predicate | None = None) -> Event | None:
        """The oldest event that has already happened, passes `typemask` and for which `predicate` is true; or None.

        It is removed from the queue: each event is returned once. Does no I/O: an event that nothing has pumped in is
        not there yet. A predicate runs with the engine's lock held; it must not call the engine. One that raises
        leaves the queue as it was.
        """

    def event_wait(typemask: int = ..., predicate: Predicate | None = None) -> Event:
        """Like event_check, but blocks the calling native thread until there is such an event.

        Other events stay queued, in order. Callbacks of every kind may run meanwhile.
        """

    def event_register_callbacks(hooks: object | None) -> None:
        """Deliver events of hooks.event_occurs_mask to hooks.event_occurs (IEventHooks); None: queue them all again.

        The latest call counts. Raises MisuseError while evgens are enabled, or from inside an engine call. ValueError
        if the mask is not 0 and there is no event_occurs.
        """

    def evenable_domain_death(domid: int, user: int = 0) -> Any:
        """Generate DomainShutdown (once at most) and DomainDeath (once) for `domid`. Returns the evgen.

        Any domid is accepted; one that does not exist is reported dead when the domains are next looked at. The
        engine reports states, not transitions: it looks at all domains when xenstored fires @releaseDomain, and when
        the first evgen is enabled.
        """

    def evdisable_domain_death(evgen: object) -> None:
        """Stop. Events that occurred before may still be returned. MisuseError for a handle that is not live."""

    def evenable_disk_eject(domid: int, vdev: str, user: int = 0) -> Any:
        """Generate a DiskEject each time the guest ejects `vdev`. Returns the evgen.

        `vdev` is a disk's name (ValueError if it is none); the disk need not exist.
        """

    def evdisable_disk_eject(evgen: object) -> None:
        """Stop. Events that occurred before may still be returned. MisuseError for a handle that is not live."""

    def osevent_beforepoll(
        now: float | None = None,
    ) -> tuple[list[tuple[int, int]], int | None]:
        """What to poll(2) for: ([(fd, events)…], timeout_ms, None meaning no limit).

        `now` is wall-clock seconds since the epoch (None: the clock's). The list is sized by the engine, so the
        header's ERROR_BUFERFULL can't happen.
        """

    def osevent_afterpoll(fds: Sequence[tuple[int, int, int]], now: float | None = None) -> None:
        """Do all the work that poll's result implies: `fds` are the (fd, events, revents) of the latest beforepoll.

        Generates events, for event_check to return. Stale or false readiness is ignored. Only one thread may use this
        pair.
        """

    def osevent_register_hooks(hooks: object) -> None:
        """Use an event loop (IOSEventHooks) for fds and timeouts from now on.

        Once per engine, and before it is interested in anything (evgens, operations, an `always` childproc mode):
        otherwise MisuseError.
        """

    def osevent_occurred_fd(for_libxl: object, fd: int, events: int, revents: int) -> None:
        """`fd` is ready. The engine polls it again itself, so a stale or mistaken report is harmless.

        MisuseError from inside a hook or any other engine call.
        """

    def osevent_occurred_timeout(for_libxl: object) -> None:
        """The timeout is due. On entry it is deregistered; the engine registers it anew if it wants it again.

        MisuseError for a timeout that has occurred already, and from inside a hook or any other engine call.
        """

    def childproc_setmode(hooks: object | None) -> None:
        """Say who forks and reaps (IChildProcHooks); None: SigchldOwner.LIBXL and the engine's own fork.

        MisuseError while the engine has a child, or where the mode wants SIGCHLD and somebody else has it: the
        message names the owner and the mode to use instead.
        """

    def childproc_reaped(pid: int, status: int) -> bool:
        """The application reaped `pid`; `status` is as from waitpid. True if it was the engine's child.

        Only with SigchldOwner.MAINLOOP, and never from a signal handler (MisuseError).
        """

    def childproc_sigchld_occurred() -> None:
        """SIGCHLD occurred: look at the engine's own children, and reap those that have ended.

        Only with SigchldOwner.MAINLOOP, and never from a signal handler. Not beside a loop that reaps by itself, such
        as gevent's: a child that somebody else reaped is a disaster here.
        """

    def succession() -> ISuccession:
        """What opens another engine on the same host, once this one is beyond help. Works on a dead engine, too.

        To be called before ctx_free. What the engine has made for itself and would close then, such as a simulated
        host, goes to its successor.
        """

    def postfork_child_noexec() -> None:
        """In a forked child that will not exec: let go of what a child must not hold. The engine is dead after it."""

    def ctx_free() -> None:
        """Disable everything and close. Unretrieved events are discarded, evgens become invalid. Idempotent.

        MisuseError while an operation or child is pending or from inside an engine call; the engine stays usable.
        """

    def domain_pause(domid: int, how: AsyncHow | None = None) -> None:
        """Stop scheduling the domain's vcpus.

        `how` None: synchronous, blocks the native thread. An error that is found before the operation has started is
        raised and not reported through `how`. The same holds for the operations below.
        """

    def domain_unpause(domid: int, how: AsyncHow | None = None) -> None:
        """Let the domain's vcpus run again."""

    def domain_shutdown(domid: int, how: AsyncHow | None = None) -> None:
        """Ask the guest to shut down. Complete when it has acknowledged the request, or refused to for a minute."""

    def domain_reboot(domid: int, how: AsyncHow | None = None) -> None:
        """Ask the guest to reboot. Complete when it has acknowledged the request, or refused to for a minute."""

    def domain_destroy(domid: int, how: AsyncHow | None = None) -> None:
        """Destroy the domain and its devices. Forks. Complete when it is gone."""

    def domain_create_new(config: str, how: AsyncHow | None = None, console: int | None = None) -> NewDomain:
        """Create the domain that libxl's JSON `config` describes, and leave it paused. May fork.

        `console`: the for_user of a DomainCreateConsoleAvailable that says when its console can be opened; None: no
        such event. With the real library the call lasts until the domain's memory is built, `how` or not (`builder`).
        A configuration that libxl can't read raises before anything has started.
        """

    def domain_create_restore(
        config: str, fd: int, how: AsyncHow | None = None, console: int | None = None
    ) -> NewDomain:
        """Create a domain in the state that domain_suspend wrote, read from `fd`, and leave it paused. Forks.

        `fd` is the engine's until the end, and blocking. Otherwise as domain_create_new.
        """

    def domain_suspend(domid: int, fd: int, live: bool = False, how: AsyncHow | None = None) -> None:
        """Let the guest suspend itself, and write its state to `fd`; with `live`, most of it while it runs. Forks.

        Complete when all is written; the domain stays, shut down with reason SUSPEND. `fd` is the engine's until the
        end, and blocking.
        """

    def cdrom_insert(domid: int, vdev: str, path: str | None, format: str = "raw", how: AsyncHow | None = None) -> None:
        """Put the image at `path`, of libxl's disk format `format`, into the CD drive `vdev`; None: leave it empty.

        Only for HVM domains, and drives that they have: Inval or Fail otherwise.
        """

    def ao_abort(how: AsyncHow) -> None:
        """Ask the operation that was started with `how` to stop early; it completes as usual, often with Aborted.

        NotFound if there is none (any more), Aborted if it was aborted already.
        """

    def domain_info(domid: int) -> DomainInfo:
        """The domain's state, by hypercall. DomainNotFound if it does not exist."""

    def list_domain() -> list[DomainInfo]:
        """All domains, ascending by domid, by hypercall."""

    def xenstore_connect() -> IStoreConnection:
        """A new connection to this engine's xenstored, speaking the wire protocol of gxl.xenstore. OSError if none.

        Not a part of libxl: libxl can't tell that its own connection died, that a domain appeared, or what a domain
        is called without blocking.
        """


class ICollectedEngine(IEngine):
    """An engine that a Context collects events from, instead of being called for each of them inside a call.

    So ten thousand events that one call of the engine's found can be taken a few at a time, and the loop runs between.
    """

    def event_notify(notice: Callable[[], object], into: deque[Any], limit: int) -> None:
        """Call `notice` at the end of each call that may have left events in the queue.

        Of the calls that a loop makes, osevent_occurred_* and the like, until they raise: the first events are moved to
        `into` before, as by event_collect, as long as there are fewer than `limit`. Of others, those that start or
        abort an operation, whoever makes them.
        """

    def event_collect(into: deque[Any], limit: int) -> bool:
        """Move up to `limit` of the oldest events from the engine's queue to the end of `into`. False: no more there.

        What raises here, even Ctrl-C, loses no event: it is in `into`, or will be at the next call. One that can't be
        copied is a disaster of its type. Events of evgens need not have their domuuid, and may be
        drafts (gxl.drafts), which the Context seals.
        """
