# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a signal's handler would raise in the midst of, and must not. In Python, and in C."""

from __future__ import annotations

import ctypes
import operator
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import pytest
from worlds import in_native_thread

from gxl import shield
from gxl.shield import Shield, unbroken

pytest_plugins = ["forms"]
pytestmark = pytest.mark.usefixtures("form")


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """The signals that a handler, which does not raise, has been called for: SIGUSR1 and SIGUSR2."""
    numbers: list[int] = []
    before = {number: signal.signal(number, lambda number, _: numbers.append(number)) for number in USERS}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Python's own handler of SIGINT: libev, whose watchers other tests use, leaves the system's in its place."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


USERS = (signal.SIGUSR1, signal.SIGUSR2)


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    done = []

    def work() -> None:
        with Shield():
            signal.raise_signal(signal.SIGINT)
            done.append("all")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_each_signal_that_came_is_handled_once_and_the_handlers_are_back(handled: list[int]) -> None:
    handlers = [signal.getsignal(number) for number in USERS]
    with Shield(), Shield():
        for number in (*USERS, *USERS):
            signal.raise_signal(number)
        assert handled == []
    assert sorted(handled) == sorted(USERS)
    assert [signal.getsignal(number) for number in USERS] == handlers


def test_an_exception_passes_through_and_the_handlers_are_back(handled: list[int]) -> None:
    with pytest.raises(LookupError), Shield():
        raise LookupError
    signal.raise_signal(signal.SIGUSR1)
    assert handled == [signal.SIGUSR1]


def test_a_handler_that_raises_leaves_none_behind(handled: list[int]) -> None:
    def work() -> None:
        with Shield():
            for number in (signal.SIGUSR1, signal.SIGINT):
                signal.raise_signal(number)

    with pytest.raises(KeyboardInterrupt):
        work()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGUSR1)
    assert signal.SIGUSR1 in handled


def test_in_another_thread_there_is_nothing_to_hold(handled: list[int]) -> None:
    handler = signal.getsignal(signal.SIGUSR1)

    def other() -> None:
        with Shield():
            assert signal.getsignal(signal.SIGUSR1) is handler

    in_native_thread(other)


def comes_just_before_held() -> None:
    """Hold the signals, with one that has come, in C, since Python has looked for the last time. May raise."""
    come = partial(ctypes.pythonapi.PyErr_SetInterruptEx, signal.SIGUSR1)
    held: list[object] = []
    try:
        held += map(operator.call, cast(tuple[Any, ...], (come, shield.hold)))
    finally:
        if True in held:
            shield.let_go()


def test_one_that_came_just_before_is_handled_before_the_block() -> None:
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(shield.held_from()))
    comes_just_before_held()
    signal.signal(signal.SIGUSR1, before)
    assert seen == [None]


def test_if_its_handler_raises_nothing_is_held() -> None:
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        comes_just_before_held()
    signal.signal(signal.SIGUSR1, before)
    assert shield.held_from() is None
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_what_was_blocked_before_stays_so_and_is_told() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    with Shield():
        assert set(shield.held_from() or ()) == {*before, signal.SIGUSR2}
    assert signal.pthread_sigmask(signal.SIG_SETMASK, before) == {*before, signal.SIGUSR2}


def test_a_callback_of_a_loop_outlives_two_signals_at_once() -> None:
    """The handler of the second raises as the first is about to be reported."""
    told: list[BaseException] = []
    called: list[int] = []

    def report(error: BaseException) -> None:
        told.append(error)
        if len(told) == 1:
            raise KeyboardInterrupt

    def call() -> None:
        called.append(1)
        if len(called) == 1:
            raise SystemExit

    callback = unbroken(call, report)
    for _ in range(3):
        callback()
    assert len(called) == 3
    assert [type(error) for error in told] == [SystemExit, KeyboardInterrupt]
