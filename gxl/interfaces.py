# SPDX-License-Identifier: LGPL-2.1-or-later
"""The contract between gxl's three parties, all of it.

libxl's header has an event producer, an event loop and an application. So has gxl: an **engine** (IEngine) speaks for
Xen, a **hub** (IHub) owns the event loop, and a Context brings the two together and serves the application. Engines
and hubs never meet anywhere else. To write a hub provider, implement IHub and what it hands out; to write an engine,
implement IEngine; `gxl.testing` has the suite that each must pass.

Conventions. Domids are unsigned 32-bit ints, user values unsigned 64-bit ints, fds ints, `events` and `revents`
poll(2) bits. Moments that cross the border to libxl are wall-clock seconds since the epoch, as floats; durations are
seconds as floats, except where a name ends in `_ms` or `_ns`. A malformed argument is a TypeError or ValueError,
raised before anything has changed. zope.interface writes methods without `self`, and checks neither keyword-only
parameters nor annotations: keep to the positional shapes given here.

"The header" is libxl_event.h.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from uuid import UUID

from zope.interface import Attribute, Interface

from gxl.arguments import check_user
from gxl.events import Event, ShutdownReason

Predicate = Callable[[Event], object]


class SigchldOwner(enum.IntEnum):
    """Who catches SIGCHLD and who reaps (libxl_sigchld_owner)."""

    LIBXL = 0
    """The engine owns SIGCHLD while it has a child, and reaps every child of the process. The default."""
    MAINLOOP = 1
    """The application reaps, and reports to childproc_reaped or childproc_sigchld_occurred. What a gevent hub needs."""
    LIBXL_ALWAYS = 2
    """The engine owns SIGCHLD all the time, and reaps every child of the process."""
    LIBXL_ALWAYS_SELECTIVE_REAP = 3
    """The engine owns SIGCHLD all the time, but reaps only its own children."""


class AsyncHow:
    """How an operation reports its end: by an OperationComplete event, or by a callback (libxl_asyncop_how).

    AsyncHow(for_event=7) queues an OperationComplete whose for_user is 7. AsyncHow(callback=f) calls f(rc) once, rc
    being 0 or a libxl error code, possibly before the call that started the operation has returned; f runs inside the
    engine, so it may call the engine but must not switch or block. Identity counts: ao_abort takes the object that the
    operation was started with.
    """

    __slots__ = ("callback", "for_event")

    def __init__(self, for_event: int = 0, callback: Callable[[int], object] | None = None) -> None:
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        if callback is not None and for_event:
            raise ValueError("an operation reports by for_event or by callback, not by both")
        self.for_event = check_user(for_event, "for_event")
        self.callback = callback


class DomainInfo(NamedTuple):
    """What the hypervisor says of a domain, read in one hypercall and never through xenstore."""

    domid: int
    uuid: UUID
    running: bool
    blocked: bool
    paused: bool
    shutdown: bool
    dying: bool
    shutdown_reason: ShutdownReason | int | None
    """None unless `shutdown`."""
    current_memory_kb: int
    max_memory_kb: int
    cpu_time_ns: int
    """Grows only while the domain runs."""


class NewDomain:
    """A domain that is being created. `domid` is None until the operation has ended well."""

    __slots__ = ("domid",)

    def __init__(self) -> None:
        self.domid: int | None = None


class IOSEventHooks(Interface):
    """What an engine asks of an event loop: the header's libxl_osevent_hooks, method for method.

    The engine calls these from inside almost any of its own functions, with its lock held. So a hook must return at
    once; it must not block, switch greenlets, or call the engine, above all not osevent_occurred_fd or
    osevent_occurred_timeout (the real library aborts). It arranges something and returns.

    `for_libxl` is the engine's token for the registration, to be handed back in osevent_occurred_*; what a register
    hook returns is the loop's token, handed back to modify and deregister. Engine tokens are recycled: never use one
    as a key by itself.

    A hook fails by raising: OSEventRegFail carries a positive code of its own, anything else counts as -12. It must
    then have left the registration as it was.
    """

    def fd_register(fd: int, events: int, for_libxl: object) -> object:
        """Call osevent_occurred_fd(for_libxl, fd, events, revents) whenever `fd` is ready for any of `events`.

        Level-triggered. `events` 0 is legal and means: never, for now. One fd may be registered several times, with
        events that differ in at least one bit. Returns the registration.
        """

    def fd_modify(fd: int, registration: object, events: int) -> object:
        """From now on watch `fd` for `events` instead. Returns the registration, the same or another.

        Calls for the old set that are on their way already are harmless: the engine ignores them.
        """

    def fd_deregister(fd: int, registration: object) -> None:
        """Forget `registration`, before returning: the engine may close `fd` next. It can't fail."""

    def timeout_register(abs: float, for_libxl: object) -> object:
        """Call osevent_occurred_timeout(for_libxl), once, at the moment `abs` or soon after; never before it.

        `abs` is wall-clock seconds since the epoch, 0 meaning as soon as possible. The engine does not look at the
        clock again: a timeout that is reported early is an early timeout. Returns the registration.
        """

    def timeout_modify(registration: object, abs: float) -> object:
        """Make the timeout occur as soon as possible: `abs` is always 0 (the engine has lost interest in it).

        It may race with the timeout's own occurrence and may come twice for one registration; either way
        osevent_occurred_timeout must be called exactly once. Returns the registration, the same or another.
        """

    def timeout_deregister(registration: object) -> None:
        """Never called: a part of the header's deprecated, unsafe mode of use."""


class IChildProcHooks(Interface):
    """Who forks and reaps the engine's children: the header's libxl_childproc_hooks."""

    chldowner = Attribute("A SigchldOwner.")

    fork_replacement = Attribute(
        """None, or a callable without arguments that the engine calls instead of fork.

        It behaves as fork does: returns the pid in the parent and 0 in the child, and raises OSError where fork
        failed so. It must not call the engine, block or switch. It is called again inside the engine's own middle
        processes; there it must be a plain fork. None means the engine's own, the original os.fork.
        """
    )

    reaped_callback = Attribute(
        """None, or a callable (pid, status) -> bool for children that the engine reaped and does not know.

        True: the child is the application's. False: it is nobody's, which the engine logs. An exception is a
        disaster. Only used with SigchldOwner.LIBXL and LIBXL_ALWAYS. `status` is as from waitpid. It may call the
        engine.
        """
    )


class IEventHooks(Interface):
    """An application's callbacks: the header's libxl_event_hooks."""

    event_occurs_mask = Attribute("Events of these types go to event_occurs instead of the queue. A typemask.")

    event_occurs = Attribute(
        """None (only if the mask is 0), or a callable (event) -> None.

        From an engine: runs inside the engine call that found the event, once its lock is released; may call the
        engine. From a Context: runs in code that the hub spawned, one event after the other, and may block.
        """
    )

    disaster = Attribute(
        """None, or a callable (type, msg, errnoval) -> None: events of this type (0: of all types) may be missing.

        `msg` and `errnoval` say what was being attempted. From an engine: must not call the engine. Without it, the
        call at hand raises Disaster; where there is none, the hub's error handler is told.
        """
    )


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


class IEventSink(Interface):
    """What a hub reports to: a Context. All that a provider ever sees of gxl.

    Called from the loop (or whatever runs its callbacks) in the thread that owns the binding, never from inside a
    hook, and never from a greenlet that may not be switched away from. These methods don't raise and don't block.
    """

    def fd_ready(for_libxl: object, fd: int, events: int, revents: int) -> None:
        """A registered fd is ready. `revents` may be inexact: the engine looks again itself."""

    def timeout_due(for_libxl: object) -> None:
        """A registered timeout is due. Exactly once per registration; the registration is gone on entry."""

    def child_reaped(pid: int, status: int) -> None:
        """A child that fork_replacement made has ended; `status` is as from waitpid. Exactly once per child."""


class IWaiter(Interface):
    """Parks one greenlet, thread or task until it is woken."""

    def wait(timeout: float | None) -> bool:
        """Parks the caller until wake() is called, or for `timeout` seconds (None: for ever; 0: not at all).

        True if it was woken, at once if it had been already; the wake-up is used up by that. False after the time is
        up. Whatever the hub throws into the caller (a kill, a foreign timeout) passes through.
        """

    def wake() -> None:
        """Make the present or the next wait() return True. Sticky.

        Never switches, blocks or raises: it is legal inside a C callback. Only from the thread that owns the binding.
        """


class IAwaitableWaiter(IWaiter):
    """A waiter of a loop that runs coroutines. Its wait() raises MisuseError where the loop is running already."""

    def awaited(timeout: float | None) -> Awaitable[bool]:
        """wait(timeout), as something to await. A cancelled task takes no wake-up with it."""


class IHubBinding(Interface):
    """A Context's place in an event loop, made by IHub.attach and belonging to the thread that called it.

    It serves one engine; and if that is lost and replaced, the next, beside what is left of the former.
    """

    osevent = Attribute(
        """An IOSEventHooks whose fds and timeouts report to the sink; or None where there is no loop.

        Then the binding is an IPolledBinding, and the Context pumps by beforepoll and afterpoll.
        """
    )
    childproc = Attribute(
        "An IChildProcHooks whose children are reported to the sink; or None where this loop can't watch children here."
    )

    def waiter() -> IWaiter:
        """A new waiter for the calling greenlet, thread or task: an IAwaitableWaiter where the loop runs coroutines.

        Raises MisuseError where the caller can't wait at all, such as a callback of the loop itself.
        """

    def call_soon(f: Callable[[], object]) -> None:
        """Call `f` from the loop, soon, not from inside this call. Never switches; legal inside a C callback.

        `f` must not block. What it raises goes to report().
        """

    def spawn(f: Callable[[], object]) -> None:
        """Run `f`, which is an application's code and may block, in a greenlet, thread or task of its own.

        Never switches. What it raises goes to report().
        """

    def no_switch() -> AbstractContextManager[object]:
        """A guard for code that runs inside libxl: an attempt to switch away raises instead of switching.

        Cheap, and may be nested.
        """

    def check_caller() -> None:
        """Raises MisuseError in a thread or process that this binding does not belong to."""

    def report(exc: BaseException) -> None:
        """Hand an exception that nobody can catch to the loop's error handler. Never raises."""

    def close() -> None:
        """Stop every watcher, timer and child watcher, and forget them; nothing is reported afterwards. Idempotent.

        Also right in a forked child, where it must leave the parent's loop unharmed.
        """


class ICoroutineBinding(IHubBinding):
    """A binding to a loop that runs coroutines.

    Its waiters are IAwaitableWaiters, and it awaits what spawned code returns, if that can be awaited. In its loop,
    nothing that blocks may be called.
    """

    def check_can_block(instead: str) -> None:
        """Raises MisuseError where the loop is running, and names what to await. Elsewhere wait() may run it."""


class IPollSource(Interface):
    """What there is to poll for: a Context's engine, and gxl's own. Called with the binding's lock held."""

    def before_poll() -> tuple[list[tuple[int, int]], float | None]:
        """([(fd, events)…], seconds until after_poll is due in any case, or None). An fd may be listed twice."""

    def after_poll(fds: list[tuple[int, int, int]]) -> None:
        """Do what poll's result implies: `fds` are the (fd, events, revents) of the latest before_poll.

        Doesn't raise; stale or false readiness is harmless.
        """


class IPolledBinding(IHubBinding):
    """A binding without a loop, whose `osevent` is None: whichever thread waits polls, and does the work.

    It belongs to the process. Several threads may wait: one polls, the others are parked. wake() and call_soon() may
    come from any thread, and take no lock.
    """

    lock = Attribute(
        """A re-entrant lock, as a context manager: a Context does all its work inside.

        wait() lets go of it meanwhile. Whoever leaves it makes the thread that polls ask before_poll anew.
        """
    )

    def poll_for(source: IPollSource) -> None:
        """From now on poll for this."""


class IHub(Interface):
    """A provider: makes bindings to an event loop."""

    name = Attribute("The provider's name, as in $GXL_HUB: 'gevent', 'asyncio', 'poll', …")
    version = Attribute("What it is, for people: a library's version, its loop, what it has patched in this process.")

    def attach(sink: IEventSink) -> IHubBinding:
        """Bind one Context to the loop of the calling thread. Raises MisuseError where there can be none."""
