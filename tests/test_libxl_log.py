# SPDX-License-Identifier: LGPL-2.1-or-later
"""libxl's log in Python's logging."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from gxl.engines.libxl import LibxlEngine
from gxl.engines.libxl.children import plain_fork
from gxl.engines.libxl.log import Log, logger, parse, xtl_level
from gxl.errors import LibxlError
from gxl.interfaces import AsyncHow
from gxl.simhost.remote import RemoteHost

pytest_plugins = ["libxl_fixtures"]


@pytest.fixture
def level() -> Iterator[Callable[[int], None]]:
    """Sets the level of gxl.libxl for one test."""
    yield logger.setLevel
    logger.setLevel(logging.NOTSET)


def test_lines_become_levels_and_messages() -> None:
    lines = b"libxl: error: a.c:1:f: bad: No such file\nxc: debug: hypercall\nxencall: critical: no\nprogress: 50%"
    assert parse(lines) == [
        (logging.ERROR, "a.c:1:f: bad: No such file"),
        (logging.DEBUG, "xc: hypercall"),
        (logging.CRITICAL, "xencall: no"),
        (logging.INFO, "50%"),
    ]


def test_what_a_guest_wrote_can_neither_break_a_line_nor_speak_to_a_terminal() -> None:
    assert parse(b"libxl: warning: name is evil\n\x1b[2Jname\nlibxl: notice: \xff\r") == [
        (logging.WARNING, "name is evil\\n\\x1b[2Jname"),
        (logging.INFO, "\\xff\\x0d"),
    ]
    assert parse(b"no level\n\n") == [(logging.INFO, "no level")]


@pytest.mark.parametrize(
    ("level", "xtl"),
    [
        (logging.DEBUG, 1),
        (logging.DEBUG - 5, 1),
        (logging.INFO, 4),
        (logging.WARNING, 7),
        (logging.ERROR, 8),
        (logging.CRITICAL, 8),
        (logging.CRITICAL + 50, 8),
    ],
)
def test_libxl_formats_no_more_than_the_logger_wants_and_always_errors(level: int, xtl: int) -> None:
    assert xtl_level(level) == xtl


def test_messages_arrive_after_the_call_that_made_them(
    engine: LibxlEngine, host: RemoteHost, caplog: pytest.LogCaptureFixture
) -> None:
    domid = host.create_domain()
    how = AsyncHow()
    engine.domain_shutdown(domid, how)
    assert caplog.records == []
    engine.ao_abort(how)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("gxl.libxl", logging.ERROR)
    assert record.message.endswith("guest didn't acknowledge control request: -22")


def test_the_level_is_the_loggers_when_the_engine_was_opened(
    open_engine: Callable[[], LibxlEngine],
    host: RemoteHost,
    caplog: pytest.LogCaptureFixture,
    level: Callable[[int], None],
) -> None:
    level(logging.DEBUG)
    talkative = open_engine()
    level(logging.WARNING)
    quiet = open_engine()
    level(logging.DEBUG)
    quiet.evenable_domain_death(1)
    assert caplog.records == []
    talkative.evenable_domain_death(1)
    assert "@releaseDomain" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_what_a_child_of_libxl_logs_is_not_lost(
    engine: LibxlEngine, host: RemoteHost, caplog: pytest.LogCaptureFixture
) -> None:
    def fork() -> int:
        pid = plain_fork()
        if pid == 0:
            del os.environ["GXL_SIM_HYPERCALLS"]  # so that the child can't open Xen, and says so
        return pid

    engine.childproc_setmode(SimpleNamespace(chldowner=0, fork_replacement=fork, reaped_callback=None))
    with pytest.raises(LibxlError):
        engine.domain_destroy(host.create_domain())
    assert "Could not obtain handle on privileged command interface" in caplog.text


def test_handlers_may_call_the_engine_and_their_failures_stay_their_own(
    engine: LibxlEngine, host: RemoteHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = []

    class Handler(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            heard.append((engine.event_check(), record.getMessage()))
            raise LookupError("a broken handler")

    handler = Handler()
    logger.addHandler(handler)
    try:
        with pytest.raises(LibxlError):
            engine.domain_pause(1234)
    finally:
        logger.removeHandler(handler)
    assert heard
    assert heard[0][0] is None
    assert "a broken handler" in capsys.readouterr().err


def test_much_log_is_read_in_order_and_does_not_stay_in_memory(engine: LibxlEngine) -> None:
    log = Log(engine._ctx.library)
    for number in range(30):
        os.write(log._fd, b"".join(b"libxl: error: %d %s\n" % (number, b"x" * 90) for _ in range(1000)))
        taken = log.take()
        assert len(taken) == 1000
        assert {message.split()[0] for _, message in taken} == {str(number)}
    assert os.fstat(log._fd).st_blocks * 512 < 2 << 20
    os.write(log._fd, b"libxl: error: half")
    assert log.take() == []
    os.write(log._fd, b" and half\n")
    assert log.take() == [(logging.ERROR, "half and half")]
    log.close()
