# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an engine calls: the header's three tables of callbacks."""

from __future__ import annotations

from zope.interface import Attribute, Interface


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
