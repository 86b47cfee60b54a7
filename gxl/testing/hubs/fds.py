# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for IOSEventHooks: fds."""

from __future__ import annotations

import os
import posix
import socket
import tempfile
from collections.abc import Callable
from select import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI

from gxl.errors import MisuseError
from gxl.testing.hubs.rig import Rig


async def an_fd_is_reported_with_its_token_fd_events_and_what_it_is_ready_for(rig: Rig) -> None:
    reader, writer = rig.pipe()
    token = object()
    rig.osevent.fd_register(reader, POLLIN, token)
    await rig.turn()
    assert not rig.sink.of(token)
    os.write(writer, b"x")
    await rig.until(lambda: rig.sink.of(token), "the pipe is reported")
    assert rig.sink.of(token)[0] == (token, reader, POLLIN, POLLIN)


async def an_fd_is_reported_for_as_long_as_it_is_ready(rig: Rig) -> None:
    reader, writer = rig.pipe()
    registration = rig.osevent.fd_register(reader, POLLIN, "level")
    os.write(writer, b"x")
    await rig.until(lambda: len(rig.sink.of("level")) > 3, "it is reported again and again")
    os.read(reader, 1)
    await rig.turn()
    seen = len(rig.sink.of("level"))
    await rig.turn()
    assert len(rig.sink.of("level")) == seen
    rig.osevent.fd_deregister(reader, registration)


async def an_fd_that_becomes_ready_is_reported_soon(rig: Rig) -> None:
    reader, writer = rig.pipe()
    rig.osevent.fd_register(reader, POLLIN, "soon")
    rig.sink.answers["soon"] = lambda *_: os.read(reader, 1)

    def start() -> Callable[[], object]:
        seen = len(rig.sink.of("soon"))
        os.write(writer, b"x")
        return lambda: len(rig.sink.of("soon")) > seen

    await rig.soon(start, "an fd that has become ready is reported")


async def an_fd_that_is_ready_already_is_not_reported_from_inside_a_hook(rig: Rig) -> None:
    # libxl's lock is held there, and the real library aborts.
    reader, writer = rig.pipe()
    os.write(writer, b"x")
    rig.sink.inside_hook = True
    registration = rig.osevent.fd_register(reader, POLLIN, "ready")
    registration = rig.osevent.fd_modify(reader, registration, 0)
    registration = rig.osevent.fd_modify(reader, registration, POLLIN)
    rig.sink.inside_hook = False
    await rig.until(lambda: rig.sink.of("ready"), "it is reported")
    rig.sink.inside_hook = True
    rig.osevent.fd_deregister(reader, registration)
    rig.sink.inside_hook = False


async def an_fd_registered_for_nothing_is_never_reported(rig: Rig) -> None:
    # Not even its hang-up, which the kernel reports unasked.
    reader, writer = rig.pipe()
    rig.osevent.fd_register(reader, 0, "idle")
    os.write(writer, b"x")
    posix.close(writer)
    await rig.turn()
    assert not rig.sink.of("idle")


async def modify_changes_what_is_watched_at_once(rig: Rig) -> None:
    left, right = socket.socketpair()
    with left, right:
        registration = rig.osevent.fd_register(left.fileno(), POLLIN, "pair")
        await rig.turn()
        assert not rig.sink.of("pair")
        registration = rig.osevent.fd_modify(left.fileno(), registration, POLLIN | POLLOUT)
        await rig.until(lambda: rig.sink.of("pair"), "the socket is writable")
        assert rig.sink.of("pair")[0][2:] == (POLLIN | POLLOUT, POLLOUT)
        registration = rig.osevent.fd_modify(left.fileno(), registration, 0)
        seen = len(rig.sink.of("pair"))
        right.send(b"x")
        await rig.turn()
        assert len(rig.sink.of("pair")) == seen
        registration = rig.osevent.fd_modify(left.fileno(), registration, POLLIN)
        await rig.until(lambda: len(rig.sink.of("pair")) > seen, "the socket is readable")
        assert rig.sink.of("pair")[-1][2:] == (POLLIN, POLLIN)
        rig.osevent.fd_deregister(left.fileno(), registration)


async def a_deregistered_fd_is_not_reported(rig: Rig) -> None:
    reader, writer = rig.pipe()
    registration = rig.osevent.fd_register(reader, POLLIN, "gone")
    os.write(writer, b"x")
    rig.osevent.fd_deregister(reader, registration)
    await rig.turn()
    assert not rig.sink.of("gone")


async def an_fd_may_be_closed_and_its_number_used_again_in_the_same_turn(rig: Rig) -> None:
    for turn in range(100):
        old_reader, old_writer = os.pipe()
        registration = rig.osevent.fd_register(old_reader, POLLIN, ("old", turn))
        os.write(old_writer, b"x")
        if turn % 2:
            await rig.turn(1)
        seen = len(rig.sink.of(("old", turn)))
        rig.osevent.fd_deregister(old_reader, registration)
        posix.close(old_reader)
        posix.close(old_writer)
        reader, writer = os.pipe()
        assert reader == old_reader, "the kernel gives the lowest free number"
        registration = rig.osevent.fd_register(reader, POLLIN, ("new", turn))
        if turn % 3:
            await rig.turn(1)
            assert not rig.sink.of(("new", turn)), "a report for the old pipe reached the new one"
        os.write(writer, b"x")
        await rig.until(lambda key=("new", turn): rig.sink.of(key), "the new pipe is reported")  # type: ignore[misc]  # mypy infers no lambda that has a default
        assert len(rig.sink.of(("old", turn))) == seen
        rig.osevent.fd_deregister(reader, registration)
        posix.close(reader)
        posix.close(writer)


async def an_fd_may_be_registered_twice_and_each_is_told_its_own(rig: Rig) -> None:
    left, right = socket.socketpair()
    with left, right:
        for_input = rig.osevent.fd_register(left.fileno(), POLLIN, "in")
        for_output = rig.osevent.fd_register(left.fileno(), POLLOUT, "out")
        await rig.until(lambda: rig.sink.of("out"), "the socket is writable")
        assert rig.sink.of("out")[0] == ("out", left.fileno(), POLLOUT, POLLOUT)
        assert not rig.sink.of("in")
        rig.osevent.fd_deregister(left.fileno(), for_output)
        seen = len(rig.sink.of("out"))
        right.send(b"x")
        await rig.until(lambda: rig.sink.of("in"), "the socket is readable")
        assert rig.sink.of("in")[0] == ("in", left.fileno(), POLLIN, POLLIN)
        assert len(rig.sink.of("out")) == seen
        rig.osevent.fd_deregister(left.fileno(), for_input)


async def urgent_data_is_reported_even_if_nothing_else_is_watched(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            alone = rig.osevent.fd_register(near.fileno(), POLLPRI, "alone")
            far.send(b"x")
            await rig.turn()
            assert not rig.sink.of("alone")
            far.send(b"!", socket.MSG_OOB)
            await rig.until(lambda: rig.sink.of("alone"), "urgent data is reported")
            assert rig.sink.of("alone")[0][2:] == (POLLPRI, POLLPRI)
            both = rig.osevent.fd_modify(near.fileno(), alone, POLLIN | POLLPRI)
            seen = len(rig.sink.of("alone"))
            await rig.until(lambda: len(rig.sink.of("alone")) > seen, "both are reported")
            assert rig.sink.of("alone")[-1][3] & (POLLIN | POLLPRI)
            rig.osevent.fd_deregister(near.fileno(), both)


async def an_error_is_reported_for_as_long_as_it_lasts(rig: Rig) -> None:
    reader, writer = rig.pipe()
    while True:
        try:
            os.write(writer, b"x" * 65536)
        except BlockingIOError:
            break
    registration = rig.osevent.fd_register(writer, POLLOUT, "broken")
    await rig.turn()
    assert not rig.sink.of("broken")
    posix.close(reader)
    await rig.until(lambda: len(rig.sink.of("broken")) > 3, "the broken pipe is reported again and again")
    assert all(revents & (POLLERR | POLLOUT) for _, _, _, revents in rig.sink.of("broken"))
    rig.osevent.fd_deregister(writer, registration)


async def a_hang_up_is_reported(rig: Rig) -> None:
    reader, writer = rig.pipe()
    registration = rig.osevent.fd_register(reader, POLLIN, "hung up")
    posix.close(writer)
    await rig.until(lambda: rig.sink.of("hung up"), "the hang-up is reported")
    assert rig.sink.of("hung up")[0][3] & (POLLHUP | POLLIN)
    rig.osevent.fd_deregister(reader, registration)


async def a_regular_file_is_always_ready(rig: Rig) -> None:
    # As poll(2) says; epoll refuses such an fd. libxl waits to write to the file that it saves a domain to.
    with tempfile.TemporaryFile() as file:
        registration = rig.osevent.fd_register(file.fileno(), POLLOUT, "file")
        await rig.until(lambda: len(rig.sink.of("file")) > 1, "the file is reported again and again")
        assert rig.sink.of("file")[0] == ("file", file.fileno(), POLLOUT, POLLOUT)
        registration = rig.osevent.fd_modify(file.fileno(), registration, 0)
        seen = len(rig.sink.of("file"))
        await rig.turn()
        assert len(rig.sink.of("file")) == seen
        registration = rig.osevent.fd_modify(file.fileno(), registration, POLLIN)
        await rig.until(lambda: len(rig.sink.of("file")) > seen, "the file is reported again")
        rig.osevent.fd_deregister(file.fileno(), registration)


async def an_fd_that_is_not_open_is_refused_and_leaves_no_trace(rig: Rig) -> None:
    reader, writer = os.pipe()
    posix.close(reader)
    posix.close(writer)
    for fd in (reader, -1, "0", None, True):
        try:
            rig.osevent.fd_register(fd, POLLIN, "closed")  # type: ignore[arg-type]  # that it is refused is what is tested
        except (OSError, TypeError, ValueError):
            continue
        raise AssertionError(f"fd {fd!r} was accepted")
    await rig.turn()
    reader, writer = rig.pipe()
    os.write(writer, b"x")
    await rig.turn()
    assert not rig.sink.of("closed")


async def events_that_poll_does_not_know_are_refused(rig: Rig) -> None:
    reader, _ = rig.pipe()
    for events in (1 << 31, -1, "1", None, True):
        try:
            rig.osevent.fd_register(reader, events, "odd")  # type: ignore[arg-type]  # that it is refused is what is tested
        except (TypeError, ValueError):
            continue
        raise AssertionError(f"events {events!r} were accepted")


async def an_fd_that_was_closed_too_early_hurts_only_itself(rig: Rig) -> None:
    # Against the rules, but no reason for the process to end, as it does where the loop is told of such an fd.
    for turn_first in (False, True):
        reader, writer = os.pipe()
        first = rig.osevent.fd_register(reader, POLLIN, "early")
        second = rig.osevent.fd_register(reader, POLLIN | POLLPRI, "early too")
        if turn_first:
            await rig.turn()
        posix.close(reader)
        posix.close(writer)
        await rig.turn()
        rig.osevent.fd_deregister(reader, first)
        await rig.turn()
        rig.osevent.fd_deregister(reader, second)
        await rig.turn()
    reader, writer = rig.pipe()
    rig.osevent.fd_register(reader, POLLIN, "later")
    os.write(writer, b"x")
    await rig.until(lambda: rig.sink.of("later"), "an fd with the same number is reported")


async def what_a_report_deregisters_is_not_reported(rig: Rig) -> None:
    # Both are ready in one turn of the loop; whichever comes first takes the other away.
    registrations = {}
    for here, there in (("a", "b"), ("b", "a")):
        reader, writer = rig.pipe()
        registrations[here] = reader, rig.osevent.fd_register(reader, POLLIN, here)
        rig.sink.answers[here] = lambda *_, other=there: rig.osevent.fd_deregister(*registrations[other])
        os.write(writer, b"x")
    await rig.until(lambda: rig.sink.fds, "one of them is reported")
    first = rig.sink.fds[0][0]
    await rig.turn()
    assert {token for token, *_ in rig.sink.fds if token in registrations} == {first}


async def a_report_may_register_and_modify(rig: Rig) -> None:
    reader, writer = rig.pipe()
    other, _ = rig.pipe()
    registration = rig.osevent.fd_register(reader, POLLIN, "first")

    def go_on(*_: object) -> None:
        rig.osevent.fd_modify(reader, registration, 0)
        rig.osevent.fd_register(reader, POLLIN, "second")

    rig.sink.answers["first"] = go_on
    os.write(writer, b"x")
    await rig.until(lambda: rig.sink.of("second"), "what was registered inside a report is reported")
    assert len(rig.sink.of("first")) == 1
    assert not rig.sink.of(other)


async def a_timeouts_report_may_register_and_deregister_fds(rig: Rig) -> None:
    old, old_writer = rig.pipe()
    new, new_writer = rig.pipe()
    registration = rig.osevent.fd_register(old, POLLIN, "old")

    def replace(_: object) -> None:
        rig.osevent.fd_deregister(old, registration)
        rig.osevent.fd_register(new, POLLIN, "new")
        for writer in (old_writer, new_writer):
            os.write(writer, b"x")

    rig.sink.answers["now"] = replace
    rig.osevent.timeout_register(0, "now")
    await rig.until(lambda: rig.sink.of("new"), "what was registered inside a timeout's report is reported")
    await rig.turn()
    assert not rig.sink.of("old")


async def an_fd_reused_inside_a_report_is_not_mistaken_for_the_old_one(rig: Rig) -> None:
    # Ready together; the first to be reported closes the other and reuses its number, quiet now.
    pipes = {name: os.pipe() for name in ("a", "b")}
    registrations = {name: rig.osevent.fd_register(pipe[0], POLLIN, name) for name, pipe in pipes.items()}
    fresh: list[int] = []

    def replace(other: str) -> None:
        if not fresh:
            rig.osevent.fd_deregister(pipes[other][0], registrations[other])
            for fd in pipes[other]:
                posix.close(fd)
            fresh.extend(rig.pipe())
            rig.osevent.fd_register(fresh[0], POLLIN, "fresh")
            assert fresh[0] == pipes[other][0]

    for name, other in (("a", "b"), ("b", "a")):
        rig.sink.answers[name] = lambda *_, other=other: replace(other)
        os.write(pipes[name][1], b"x")
    await rig.until(lambda: fresh, "one of them is reported")
    await rig.turn()
    assert not rig.sink.of("fresh")
    first = rig.sink.fds[0][0]
    assert isinstance(first, str)
    rig.osevent.fd_deregister(pipes[first][0], registrations[first])
    for fd in pipes[first]:
        posix.close(fd)


async def a_busy_fd_starves_neither_timeouts_nor_others(rig: Rig) -> None:
    reader, writer = rig.pipe()
    os.write(writer, b"x")
    registration = rig.osevent.fd_register(reader, POLLIN, "busy")
    await rig.until(lambda: rig.sink.of("busy"), "the busy fd is reported")
    others = [rig.pipe() for _ in range(200)]
    for number, (other, also) in enumerate(others):
        rig.osevent.fd_register(other, POLLIN, number)
        os.write(also, b"x")
    rig.osevent.timeout_register(0, "due")
    await rig.until(lambda: "due" in rig.sink.timeouts, "the timeout is reported")
    await rig.until(lambda: {token for token, *_ in rig.sink.fds} >= set(range(200)), "each of the others is reported")
    rig.osevent.fd_deregister(reader, registration)


async def an_fd_can_be_neither_registered_nor_modified_after_it_is_over(rig: Rig) -> None:
    reader, _ = rig.pipe()
    registration = rig.osevent.fd_register(reader, POLLIN, "over")
    rig.osevent.fd_deregister(reader, registration)
    rig.osevent.fd_deregister(reader, registration)
    try:
        rig.osevent.fd_modify(reader, registration, POLLOUT)
    except MisuseError:
        return
    raise AssertionError("a registration that is over was modified")
