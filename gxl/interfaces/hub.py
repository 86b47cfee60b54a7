# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a hub is: an event loop, the places in it, and what it reports to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from zope.interface import Attribute, Interface


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


class ITurnBinding(IHubBinding):
    """A binding to a loop whose call_soon may call before timers and fds have their turn."""

    def call_next_turn(f: Callable[[], object]) -> None:
        """Like call_soon, but only after the loop has looked at its timers and fds: so long work can be spread."""


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
