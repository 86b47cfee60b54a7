# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happens while C is running: who may call the engine from where, and where exceptions wait.

C runs Python inside its calls: osevent hooks, predicates, event callbacks and so on. What is allowed there differs,
and an exception can't cross C frames. So each call of the engine's is a Call while it lasts. It knows which callback is
running in it, and keeps what callbacks raise until C has returned.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from gxl.engines.libxl.loading import CData, ffi
from gxl.errors import OSEventRegFail

HOOK = "an osevent hook"
PREDICATE = "a predicate"
FORK = "fork_replacement"
DISASTER = "disaster"
EVENT_OCCURS = "event_occurs"
REAPED = "reaped_callback"
OPERATION = "an operation's callback"

LOCKED = frozenset((HOOK, PREDICATE, FORK, DISASTER))
"""Callbacks that libxl runs with its lock held, or that the header forbids to call libxl. The others may."""


class Call:
    """One call of the engine's by one thread, while it lasts.

    `inside` names the callback that is running in it. `raised` keeps what callbacks raised; `failed` the failures of
    osevent hooks that libxl has not been told of, with the hooks' names; `untimed` the timeouts among them. `told` is
    the event that event_occurs was told of last, `freed` the one that was given back to libxl last. `shielded`:
    it holds signals off.
    """

    __slots__ = ("failed", "freed", "inside", "outer", "raised", "shielded", "thread", "told", "untimed")

    def __init__(self) -> None:
        self.thread = 0
        self.outer: Call | None = None
        self.shielded = False
        self.inside: str | None = None
        self.raised: list[BaseException] = []
        self.failed: list[tuple[str, OSEventRegFail]] = []
        self.untimed: list[Any] = []
        self.told: CData | None = None
        self.freed: CData | None = None


def raise_all(raised: list[BaseException]) -> None:
    """Raise what callbacks left behind."""
    if len(raised) == 1:
        raise raised[0]
    raise BaseExceptionGroup("several callbacks raised inside one libxl call", raised)


def callback(
    signature: str, error: object = None, raised: Callable[..., object] | None = None
) -> Callable[[Callable[..., Any]], CData]:
    """Makes a function callable from C. Where it raises, C gets `error`, and the call at hand the exception.

    `raised` is then called with that exception and the function's arguments.

    The function's parameter `user` must be the handle of a Ctx, or of something that has one as `ctx`.
    """

    def make(function: Callable[..., Any]) -> CData:
        def onerror(kind: type[BaseException], exception: BaseException, traceback: TracebackType) -> None:
            # Ctrl-C may strike before a callback's first statement, so a try there would not do. Its arguments are set
            # by then.
            arguments = traceback.tb_frame.f_locals
            call = ffi.from_handle(arguments["user"]).ctx.current()
            call.inside = None
            call.raised.append(exception)
            if raised is not None:
                raised(exception, **{name: arguments[name] for name in names})

        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        if error is None:
            return ffi.callback(signature, function, onerror=onerror)
        return ffi.callback(signature, function, error=error, onerror=onerror)

    return make
