# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: a hook of the hub's raises, each hook at each of its calls, from the opening of a Context to its end."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from interruptions import check_nothing_parked
from leaks import Ledger
from worlds import World, until
from zope.interface import alsoProvides, implementer

import gxl
from gxl.hubhooks.gevent import GeventHub
from gxl.interfaces import IChildProcHooks, IEventSink, IHub, IHubBinding, IOSEventHooks, SigchldOwner

HOOKS = ["fd_register", "fd_modify", "timeout_register", "timeout_modify", "fork_replacement"]


class Faults:
    """Counts the calls of hooks, and lets one of them raise."""

    def __init__(self, hook: str = "", call: int = 0, error: BaseException | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.hook = hook
        self.call = call
        self.error = error
        self.raised = False

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def hook(*arguments: Any) -> Any:
            self.calls[name] += 1
            if name == self.hook and self.calls[name] == self.call:
                self.raised = True
                assert self.error is not None
                raise self.error
            return function(*arguments)

        return hook


class _Hooks:
    """The real hooks, with faults."""

    def __init__(self, real: Any, faults: Faults, names: list[str]) -> None:
        self.chldowner = getattr(real, "chldowner", SigchldOwner.MAINLOOP)
        self.reaped_callback = None
        for name in names:
            setattr(self, name, faults.around(name, getattr(real, name)))


@implementer(IHub)
class FaultyHub:
    """gevent's hub, with hooks that fail."""

    name = "gevent"
    version = "faulty"

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def attach(self, sink: IEventSink) -> IHubBinding:
        binding: Any = GeventHub().attach(sink)
        self.binding = binding
        real, names = binding.osevent, [*HOOKS[:-1], "fd_deregister", "timeout_deregister"]
        binding.osevent = _Hooks(real, self._faults, names)
        binding.osevent.close = real.close
        alsoProvides(binding.osevent, IOSEventHooks)
        binding.childproc, children = _Hooks(binding.childproc, self._faults, HOOKS[-1:]), binding.childproc
        binding.childproc.close = children.close
        alsoProvides(binding.childproc, IChildProcHooks)
        return binding  # type: ignore[no-any-return]  # the provider that is wrapped may be any


ERRORS = (gxl.GxlError, OSError, MemoryError)


def shut_down(ctx: gxl.Context, domid: int) -> None:
    """Ask a paused guest, which can't answer."""
    try:
        ctx.domain_shutdown(domid, timeout=0.01)
    except gxl.WaitTimeout:
        return


def live(world: World, faults: Faults, reported: list[BaseException]) -> list[BaseException]:
    """All that a Context does, once. Returns what went wrong; whatever did not must have had its effect."""
    host = world.host
    wrong: list[BaseException] = []

    @contextlib.contextmanager
    def noting() -> Iterator[None]:
        try:
            yield
        except ERRORS as error:
            wrong.append(error)

    def dead() -> bool:
        return ctx._pump.dead is not None

    domid = host.create_domain()
    host.add_disk(domid, "xvda", "vbd")
    try:
        ctx = gxl.Context(engine=world.engine(), hub=FaultyHub(faults))
    except ERRORS as error:
        return [error]
    world.contexts.append(ctx)
    death = eject = None
    with noting():
        death = ctx.evenable_domain_death(domid, user=1)
    with noting():
        eject = ctx.evenable_disk_eject(domid, "xvda", user=2)
    if eject is not None:
        host.eject_disk(domid, "xvda")
        with noting():
            assert isinstance(ctx.event_wait(user=2, timeout=10), gxl.DiskEject)
    for operate in (
        lambda: ctx.domain_pause(domid),
        lambda: shut_down(ctx, domid),
        lambda: ctx.domain_unpause(domid),
        lambda: ctx.domain_destroy(domid),
    ):
        with noting():
            operate()
    until(lambda: not ctx._pump.operations, 10)
    if domid in [info.domid for info in host.domains()]:
        host.destroy_domain(domid)
    if death is not None and not dead():
        seen = [type(ctx.event_wait(user=1, timeout=10))]
        if seen == [gxl.DomainShutdown]:  # whose request the guest came to answer
            seen.append(type(ctx.event_wait(user=1, timeout=10)))
        assert seen[-1] is gxl.DomainDeath
    for evgen in (death, eject):
        if evgen is not None:
            with noting():
                evgen.disable()
    if not dead():
        assert ctx.event_check() is None
    check_nothing_parked(ctx)
    ctx.close(timeout=10)
    return [*wrong, *reported]


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What nobody could catch, and the hub's error handler was told."""
    heard: list[BaseException] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda context, kind, value, tb: heard.append(value))
    return heard


def _calls(world: World) -> Counter[str]:
    faults = Faults()
    live(world, faults, [])
    return faults.calls


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "no room in the epoll set"), MemoryError()],
    ids=["OSError", "MemoryError"],
)
def test_a_hook_that_raises_is_told_and_leaves_nothing(
    world: World,
    sealed: Ledger,
    reported: list[BaseException],
    caplog: pytest.LogCaptureFixture,
    hook: str,
    error: BaseException,
) -> None:
    for call in range(1, _calls(world)[hook] + 1):
        reported.clear()
        caplog.clear()
        faults = Faults(hook, call, error)
        wrong = live(world, faults, reported)
        assert faults.raised
        logged = [record for record in caplog.records if record.name == "gxl" and record.levelno >= logging.WARNING]
        assert wrong or logged, "nobody was told"
