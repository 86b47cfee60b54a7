# SPDX-License-Identifier: LGPL-2.1-or-later
"""What callers do wrong, or in the wrong place, and what must not come of it; against each engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gevent
import pytest
from worlds import World, in_native_thread, outcome, settle
from zope.interface import implementer

import gxl
from gxl.interfaces import IEventHooks


@implementer(IEventHooks)
class Hooks:
    event_occurs_mask = 0

    def __init__(self, event_occurs: Any = None, disaster: Any = None) -> None:
        self.event_occurs = event_occurs
        self.disaster = disaster


@pytest.mark.parametrize(
    "call",
    [
        lambda ctx, bad: ctx.event_check(predicate=bad),
        lambda ctx, bad: ctx.event_wait(predicate=bad, timeout=1),
        lambda ctx, bad: ctx.expect(gxl.DomainDeath, 1, predicate=bad),
        lambda ctx, bad: ctx.event_register_callbacks(Hooks(event_occurs=bad)),
        lambda ctx, bad: ctx.event_register_callbacks(Hooks(disaster=bad)),
    ],
)
def test_what_is_to_be_called_must_be_callable(world: World, call: Callable[[gxl.Context, object], object]) -> None:
    ctx = world.open()
    with pytest.raises(TypeError, match="'no function'"):
        call(ctx, "no function")


SOURCES = [
    lambda ctx, domid: ctx.evenable_domain_death(domid),
    lambda ctx, domid: ctx.evenable_disk_eject(domid, "xvda"),
    lambda ctx, domid: ctx.follow_domains(),
    lambda ctx, domid: ctx.watch(domid),
    lambda ctx, domid: ctx.expect(gxl.DomainDeath, domid).__enter__(),
]


@pytest.mark.parametrize("enable", SOURCES)
def test_another_native_thread_can_not_disable(world: World, enable: Callable[[gxl.Context, int], Any]) -> None:
    ctx = world.open()
    source = enable(ctx, world.host.create_domain())
    refused: list[str] = []

    def intrude() -> None:
        try:
            source.__exit__(None, None, None)
        except gxl.MisuseError as error:
            refused.append(str(error))

    in_native_thread(intrude)
    assert "thread" in refused[0]
    source.__exit__(None, None, None)


@pytest.mark.parametrize("enable", SOURCES)
def test_a_forked_child_leaves_its_with_blocks_in_peace(
    world: World, enable: Callable[[gxl.Context, int], Any]
) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    watched = ctx.evenable_domain_death(domid, user=7)
    source = enable(ctx, world.host.create_domain())
    pid = os.fork()
    if pid == 0:
        try:
            with ExitStack() as blocks:
                for block in (ctx, source, watched):
                    blocks.push(block)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    world.host.destroy_domain(domid)
    assert ctx.event_wait(user=7, timeout=5).domid == domid


@pytest.mark.parametrize("error", [gevent.GreenletExit("enough"), SystemExit("enough")])
def test_a_predicate_that_ends_its_greenlet_surfaces_there_and_keeps_no_event_from_the_next(
    world: World, error: BaseException
) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)

    def ending(event: gxl.Event) -> bool:
        raise error

    def wait() -> object:
        try:
            return ctx.event_wait(predicate=ending)
        except BaseException as caught:
            return caught

    ended = gevent.spawn(wait)
    settle()
    next_one = gevent.spawn(ctx.event_wait)
    settle()
    world.host.destroy_domain(domid)
    assert outcome(next_one).domid == domid
    assert outcome(ended) is error


@contextmanager
def slow_handler(name: str, heard: Callable[[logging.LogRecord], object]) -> Iterator[None]:
    """A handler as a patched process has it: it writes to a socket, say, and others run meanwhile."""

    class Handler(logging.Handler):
        def createLock(self) -> None:  # noqa: N802  logging's name for it
            self.lock = None

        def handle(self, record: logging.LogRecord) -> bool:
            gevent.sleep(0.01)
            heard(record)
            return True

    logger = logging.getLogger(name)
    level, handler = logger.level, Handler()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_a_log_handler_that_blocks_keeps_no_disaster_from_the_waiters(world: World) -> None:
    heard: list[logging.LogRecord] = []
    with slow_handler("gxl", heard.append):
        ctx = world.open()
        waiter = gevent.spawn(ctx.event_wait)
        settle()
        world.host.drop_connections()
        assert isinstance(outcome(waiter), gxl.Disaster)
        gevent.sleep(0.1)
    assert logging.CRITICAL in [record.levelno for record in heard]


def test_a_log_handler_that_blocks_loses_no_event(world: World) -> None:
    domid = world.host.create_domain()
    heard: list[str] = []

    def die(record: logging.LogRecord) -> None:
        # Were this inside evenable_domain_death, libxl would tell of an evgen that nobody knows yet.
        heard.append(record.getMessage())
        if len(heard) == 1:
            world.host.destroy_domain(domid)
            gevent.sleep(0.1)

    with slow_handler("gxl.libxl", die):
        ctx = world.open()
        ctx.evenable_domain_death(domid)
        if ctx.engine.name == "embedded":  # which logs nothing here
            world.host.destroy_domain(domid)
        assert ctx.event_wait(timeout=5).domid == domid
        ctx.close()
        gevent.sleep(0.1)
    if ctx.engine.name == "libxl":
        assert "register" in heard[0]
        assert len(heard) > 3


def test_a_log_handler_that_raises_keeps_no_operation_from_its_end(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(record: logging.LogRecord) -> None:
        raise LookupError("a broken handler")

    ctx = world.open()
    with slow_handler(f"gxl.{ctx.engine.name}", broken):
        operation = ctx.domain_shutdown(world.host.create_domain(paused=True), wait=False)
        operation.abort()  # which logs an error, and ends it
        with pytest.raises(gxl.LibxlError):
            operation.wait(timeout=5)
        gevent.sleep(0.1)
    assert "a broken handler" in capsys.readouterr().err


def test_what_a_foreign_thread_makes_libxl_log_is_told_there(world: World) -> None:
    ctx = world.open()
    heard: list[str] = []

    def intrude() -> None:
        with pytest.raises(gxl.LibxlError):
            ctx.engine.domain_pause(1234, gxl.AsyncHow())

    with slow_handler(f"gxl.{ctx.engine.name}", lambda record: heard.append(record.getMessage())):
        in_native_thread(intrude)
        with pytest.raises(gxl.LibxlError):
            ctx.domain_pause(1234)
        gevent.sleep(0.1)
    if ctx.engine.name == "libxl":
        assert len(heard) >= 2


def test_a_closed_context_can_not_be_entered_nor_an_expectation_of_it_armed(world: World) -> None:
    ctx = world.open()
    expectation = ctx.expect(gxl.DomainDeath, world.host.create_domain())
    ctx.close()
    for block in (ctx, expectation):
        with pytest.raises(gxl.ContextClosed):
            block.__enter__()


def test_libxl_is_told_of_a_fork_in_the_child(world: World) -> None:
    engine = world.open()._pump.engine
    pid = os.fork()
    if pid == 0:
        try:
            engine.postfork_child_noexec()
        except gxl.MisuseError as error:
            os._exit(0 if "has been called" in str(error) else 2)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_close_that_is_killed_abandons_the_context_and_says_why(world: World) -> None:
    ctx = world.open()
    # A paused guest does not answer, and nobody but who asked it can abort that: so close() waits.
    ctx.engine.domain_shutdown(world.host.create_domain(paused=True), gxl.AsyncHow(for_event=1))
    closing = gevent.spawn(ctx.close)
    settle()
    assert not closing.ready()
    with pytest.warns(ResourceWarning, match="interrupted"):
        closing.kill()
    with pytest.raises(gxl.ContextClosed):
        ctx.event_check()
