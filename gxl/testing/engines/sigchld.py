# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for childproc_setmode: whose SIGCHLD is, and who reaps whose children.

SIGCHLD belongs to the whole process, so each case runs in a fresh one.
"""

from __future__ import annotations

import os
import posix
import signal
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from gxl.errors import MisuseError
from gxl.interfaces import AsyncHow, SigchldOwner
from gxl.testing.engines.processes import Forks, child_that_exits, ended, set_mode, sigchld_is_caught, stopped_fork
from gxl.testing.engines.rig import Rig, users

OWNERS = (SigchldOwner.LIBXL, SigchldOwner.LIBXL_ALWAYS, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP)


def in_every_mode_that_owns_sigchld_destroying_works(rig: Rig) -> None:
    for owner in OWNERS:
        set_mode(rig, owner)
        first, second = rig.domain(), rig.domain()
        rig.engine.domain_destroy(first)
        rig.engine.domain_destroy(second, AsyncHow(1))
        rig.until(lambda: users(rig.queued()) == [1], f"destroying ends in mode {owner.name}")
        assert not {first, second} & {info.domid for info in rig.host.domains()}
    set_mode(rig, SigchldOwner.LIBXL)


def by_default_sigchld_is_the_engines_only_while_it_has_a_child(rig: Rig) -> None:
    assert not sigchld_is_caught()
    before = len(rig.engine.osevent_beforepoll()[0])
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    assert sigchld_is_caught()
    assert len(rig.engine.osevent_beforepoll()[0]) > before
    rig.until(lambda: users(rig.queued()) == [1], "destroying ends")
    assert not sigchld_is_caught()
    assert len(rig.engine.osevent_beforepoll()[0]) == before
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


def in_the_always_modes_sigchld_is_the_engines_from_setmode_on(rig: Rig) -> None:
    for owner in (SigchldOwner.LIBXL_ALWAYS, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP):
        other = rig.another()
        set_mode(other, owner)
        assert sigchld_is_caught()
        set_mode(other, SigchldOwner.LIBXL)
        assert not sigchld_is_caught()
        set_mode(other, owner)
        other.engine.ctx_free()
        assert not sigchld_is_caught()


def engines_share_the_handler_and_the_last_one_removes_it(rig: Rig) -> None:
    one, two = rig.another(), rig.another()
    for each in (one, two):
        set_mode(each, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP)
    domids = rig.domain(), rig.domain()
    one.engine.domain_destroy(domids[0], AsyncHow(1))
    two.engine.domain_destroy(domids[1], AsyncHow(2))
    one.until(lambda: users(one.queued()) == [1], "the first engine's operation ends")
    two.until(lambda: users(two.queued()) == [2], "the second engine's operation ends")
    one.engine.ctx_free()
    assert sigchld_is_caught()
    two.engine.ctx_free()
    assert not sigchld_is_caught()


def in_libxl_mode_the_engine_reaps_every_child_and_reports_the_foreign_ones(rig: Rig) -> None:
    reaped: list[tuple[int, int]] = []
    forks: list[int] = []

    def answer(pid: int, status: int) -> bool:
        reaped.append((pid, status))
        return True

    for owner in (SigchldOwner.LIBXL, SigchldOwner.LIBXL_ALWAYS):
        # A child of its own keeps the engine reaping in mode LIBXL.
        set_mode(rig, owner, lambda: stopped_fork(forks), answer)
        rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
        mine = ended(child_that_exits(3))
        rig.until(lambda: reaped, f"the child is reported in mode {owner.name}")
        assert reaped == [(mine, 3 << 8)]
        with pytest.raises(ChildProcessError):
            os.waitpid(mine, 0)
        os.kill(forks.pop(), signal.SIGCONT)
        rig.until(lambda: users(rig.queued()) == [1], "the operation ends")
        assert reaped == [(mine, 3 << 8)], "the engine's own child was reported to the application"
        reaped.clear()
    set_mode(rig, SigchldOwner.LIBXL)


def a_reaped_callback_may_call_the_engine(rig: Rig) -> None:
    found: list[Any] = []
    set_mode(rig, SigchldOwner.LIBXL_ALWAYS, None, lambda pid, status: found.append(rig.engine.domain_info(0)) or True)
    ended(child_that_exits())
    rig.until(lambda: found, "the child is reported")
    set_mode(rig, SigchldOwner.LIBXL)


def a_reaped_callback_that_raises_is_a_disaster_and_the_rest_goes_on(rig: Rig) -> None:
    listener = rig.listen(0)

    def choke(pid: int, status: int) -> bool:
        raise ZeroDivisionError

    set_mode(rig, SigchldOwner.LIBXL_ALWAYS, None, choke)
    pid = ended(child_that_exits(9))
    rig.until(lambda: listener.disasters, "the disaster is reported")
    [(kind, message, _)] = listener.disasters
    assert kind == 0
    assert str(pid) in message
    assert rig.engine.dead is None
    rig.engine.domain_destroy(rig.domain())
    set_mode(rig, SigchldOwner.LIBXL)


def whatever_a_reaped_callback_raises_the_engines_own_children_are_reaped(rig: Rig) -> None:
    rig.listen(0)
    for error in (ZeroDivisionError, KeyboardInterrupt):
        pids: list[int] = []

        def choke(pid: int, status: int, error: type[BaseException] = error) -> bool:
            raise error

        set_mode(rig, SigchldOwner.LIBXL_ALWAYS, partial(stopped_fork, pids), choke)
        # The foreign one is found first, since it is older, and both by one look.
        ended(child_that_exits(9))
        rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
        os.kill(pids[0], signal.SIGCONT)
        ended(pids[0])
        finished: list[Any] = []
        raised = 0
        deadline = time.monotonic() + rig.patience
        while not finished and time.monotonic() < deadline:
            try:
                rig.turn(50)
            except KeyboardInterrupt:
                raised += 1
            finished = rig.queued()
        assert users(finished) == [1], "the engine's own child was not reaped"
        assert raised == (error is KeyboardInterrupt)
        assert rig.engine.dead is None
        set_mode(rig, SigchldOwner.LIBXL)


def selective_reaping_leaves_the_applications_children(rig: Rig) -> None:
    set_mode(rig, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP, None, lambda pid, status: pytest.fail("it is not used"))
    mine = ended(child_that_exits(4))
    rig.engine.domain_destroy(rig.domain())
    rig.turn()
    assert os.waitpid(mine, 0) == (mine, 4 << 8)
    set_mode(rig, SigchldOwner.LIBXL)


def reports_are_for_mainloop_mode(rig: Rig) -> None:
    for owner in OWNERS:
        set_mode(rig, owner)
        with pytest.raises(MisuseError, match="MAINLOOP"):
            rig.engine.childproc_reaped(1, 0)
        with pytest.raises(MisuseError, match="MAINLOOP"):
            rig.engine.childproc_sigchld_occurred()
    set_mode(rig, SigchldOwner.LIBXL)


def the_mode_stays_while_there_is_a_child(rig: Rig) -> None:
    forks = Forks()
    set_mode(rig, SigchldOwner.MAINLOOP, forks)
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    with pytest.raises(MisuseError, match="child"):
        set_mode(rig, SigchldOwner.LIBXL)
    with pytest.raises(MisuseError, match="ctx_free with"):
        rig.engine.ctx_free()
    assert rig.engine.childproc_reaped(*os.waitpid(forks.pids[0], 0))
    set_mode(rig, SigchldOwner.LIBXL)


def a_handler_that_somebody_else_has_is_named_and_respected(rig: Rig) -> None:
    def handler(number: int, frame: object) -> None:
        pass

    signal.signal(signal.SIGCHLD, handler)
    for owner in (SigchldOwner.LIBXL_ALWAYS, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP):
        with pytest.raises(MisuseError, match=r"handler.*MAINLOOP"):
            set_mode(rig, owner)
    domid = rig.domain()
    for how in (AsyncHow(1), None):
        with pytest.raises(MisuseError, match=r"handler.*MAINLOOP"):
            rig.engine.domain_destroy(domid, how)
    assert rig.queued() == []
    assert signal.getsignal(signal.SIGCHLD) is handler
    assert rig.host.domain_info(domid).domid == domid


def a_postforked_child_has_sigchld_back(rig: Rig) -> None:
    set_mode(rig, SigchldOwner.LIBXL_ALWAYS)
    pid = posix.fork()
    if pid == 0:
        status = 1
        try:
            rig.engine.postfork_child_noexec()
            status = 2 if sigchld_is_caught() else 0
        finally:
            os._exit(status)
    # The engine reaps it, so its status comes by reaped_callback; here it is enough to look.
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert info is not None
    assert info.si_status == 0
    assert sigchld_is_caught()
    set_mode(rig, SigchldOwner.LIBXL)
    assert not sigchld_is_caught()


def a_malformed_mode_is_refused_and_changes_nothing(rig: Rig) -> None:
    wrong: list[tuple[type[Exception], object]] = [
        (TypeError, object()),
        (ValueError, SimpleNamespace(chldowner=7, fork_replacement=None, reaped_callback=None)),
        (TypeError, SimpleNamespace(chldowner=1, fork_replacement="fork", reaped_callback=None)),
        (TypeError, SimpleNamespace(chldowner=2, fork_replacement=None, reaped_callback=1)),
    ]
    for error, hooks in wrong:
        with pytest.raises(error):
            rig.engine.childproc_setmode(hooks)
    assert not sigchld_is_caught()
    set_mode(rig, SigchldOwner.MAINLOOP)
    for arguments in (("1", 0), (1, None), (True, 0)):
        with pytest.raises(TypeError):
            rig.engine.childproc_reaped(*arguments)
    for numbers in ((0, 0), (-1, 0), (1, -1), (2**31, 0)):
        with pytest.raises(ValueError, match="waitpid"):
            rig.engine.childproc_reaped(*numbers)


def a_signal_of_nobodys_child_is_harmless(rig: Rig) -> None:
    set_mode(rig, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGCHLD)
        rig.turn(100)
    assert users(rig.queue_deaths(1)) == [1]
    rig.queued()
    set_mode(rig, SigchldOwner.LIBXL)
