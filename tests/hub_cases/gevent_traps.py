# SPDX-License-Identifier: LGPL-2.1-or-later
"""Traps that only show in a corner: what is left over, what is shared with a child, what happens in one turn."""

from __future__ import annotations

import os
import posix
import tempfile
from select import POLLIN, POLLOUT
from typing import Any

import gevent
import pytest

from gxl.testing.hubs.children import dead, fork

HUB = gevent.get_hub()


def test_an_engines_child_that_lets_go_of_an_fd_leaves_it_to_the_parent(rig: Any) -> None:
    # The epoll set is one and the same in both processes.
    reader, writer = rig.pipe()
    registration = rig.osevent.fd_register(reader, POLLIN, "shared")
    rig.turn()
    fork(rig, lambda: rig.osevent.fd_deregister(reader, registration))
    rig.until(lambda: rig.sink.children, "the child is reported")
    assert rig.sink.children[0][1] == 0
    os.write(writer, b"x")
    rig.until(lambda: rig.sink.of("shared"), "the parent still hears of its fd")


def test_what_a_report_sets_to_nothing_is_not_reported_in_the_same_turn(rig: Any) -> None:
    # Hung up, which the kernel reports even to those who asked for nothing.
    reported: list[object] = []
    registrations = {}
    for here, there in (("a", "b"), ("b", "a")):
        reader, writer = rig.pipe()
        registrations[here] = reader, rig.osevent.fd_register(reader, POLLIN, here)
        posix.close(writer)

        def silence(token: object, *_: object, other: str = there) -> None:
            reported.append(token)
            rig.osevent.fd_modify(*registrations[other], 0)

        rig.sink.answers[here] = silence
    rig.until(lambda: reported, "one of them is reported")
    rig.turn()
    assert set(reported) == {reported[0]}


def test_what_is_let_go_in_a_report_is_no_error(rig: Any, reported: list[BaseException]) -> None:
    registrations = {}
    for here, there in (("a", "b"), ("b", "a")):
        reader, writer = rig.pipe()
        registrations[here] = reader, rig.osevent.fd_register(reader, POLLIN, here)
        rig.sink.answers[here] = lambda *_, other=there: rig.osevent.fd_deregister(*registrations[other])
        os.write(writer, b"x")
    rig.turn()
    assert reported == []


def test_an_fd_with_a_files_old_number_is_watched_like_any_other(rig: Any) -> None:
    with tempfile.TemporaryFile() as file:
        number = file.fileno()
        registration = rig.osevent.fd_register(number, POLLOUT, "file")
        rig.until(lambda: rig.sink.of("file"), "the file is reported")
        rig.osevent.fd_deregister(number, registration)
    reader, writer = rig.pipe()
    assert number in (reader, writer)
    os.write(writer, b"x")
    token = object()
    events = POLLIN if number == reader else POLLOUT
    rig.osevent.fd_register(number, events, token)
    rig.until(lambda: rig.sink.of(token), "the pipe is reported")
    assert rig.sink.of(token)[0] == (token, number, events, events)


def test_fds_of_its_own_are_closed_at_once(rig: Any) -> None:
    # Under monkey.patch_all(), os.close only notes the fd.
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    pids = [fork(rig, lambda: 0)]
    rig.until(lambda: rig.sink.children, "the first child is reported")  # for which the loop opens some
    before = count()
    during: list[int] = []
    rig.sink.answers["child"] = lambda *_: during.append(count())
    pids.append(fork(rig, lambda: 0))
    rig.until(lambda: during, "the second child is reported")
    assert during == [before]
    with tempfile.TemporaryFile() as file:
        before = count()
        for _ in range(2):
            registration = rig.osevent.fd_register(file.fileno(), POLLOUT, "file")
            assert count() == before + 1
            rig.osevent.fd_deregister(file.fileno(), registration)
            assert count() == before
        other = rig.another()
        other.osevent.fd_register(file.fileno(), POLLOUT, "file")
        other.binding.close()
        assert count() == before


def test_the_first_child_of_a_process_may_die_before_its_watcher_is_made(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A SIGCHLD that finds no handler is gone. Without pidfds nothing else would tell.
    def unknown(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    armed = True

    def wait_for_it() -> None:
        if armed:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)

    os.register_at_fork(after_in_parent=wait_for_it)
    monkeypatch.setattr(os, "pidfd_open", unknown)
    reset: Any = HUB.loop
    reset.reset_sigchld()
    pid = fork(rig, lambda: 3)
    armed = False
    rig.until(lambda: rig.sink.children, "the child is reported")
    assert rig.sink.children == [(pid, 3 << 8)]


def test_the_loop_does_not_spin_while_it_waits_for_a_status(rig: Any, reported: list[BaseException]) -> None:
    # A pidfd stays readable for ever.
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1

    pid = fork(rig, lambda: 0)
    dead(pid)
    posix.waitpid(pid, 0)
    watcher: Any = HUB.loop.check(ref=False)  # gevent's stubs don't say that it is a context manager
    with watcher as check:
        check.start(turn)
        rig.until(lambda: rig.sink.children, "the child is reported")
    assert rig.sink.children == [(pid, 255 << 8)]
    assert turns < 50
    assert len(reported) == 1
