# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for child processes: how they are made and reaped, and what their ends mean. Destroying a domain forks.

SIGCHLD belongs to the whole process, so each case runs in a fresh one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest

from gxl.errors import DomainNotFound, Fail, MisuseError, NotFound
from gxl.events import OperationComplete
from gxl.interfaces import AsyncHow, SigchldOwner
from gxl.testing import differences
from gxl.testing.engines.processes import (
    FAIL,
    Forks,
    child_that_exits,
    ended,
    set_mode,
    sigchld_is_caught,
    stopped_fork,
)
from gxl.testing.engines.rig import Rig, users


def in_mainloop_mode_sigchld_is_never_touched_and_nothing_is_reaped(rig: Rig) -> None:
    forks = Forks()
    set_mode(rig, SigchldOwner.MAINLOOP, forks)
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    assert not sigchld_is_caught()
    [pid] = forks.pids
    ended(pid)
    rig.turn()
    rig.turn()
    assert rig.queued() == []
    _, status = os.waitpid(pid, 0)
    assert rig.engine.childproc_reaped(pid, status)
    assert users(rig.queued()) == [1]


def a_reaped_child_ends_its_operation_with_its_status(rig: Rig) -> None:
    forks = Forks()
    set_mode(rig, SigchldOwner.MAINLOOP, forks)
    for user, (status, rc) in enumerate([(0, 0), (1 << 8, FAIL), (signal.SIGKILL, FAIL), (255 << 8, FAIL)]):
        domid = rig.domain()
        rig.engine.domain_destroy(domid, AsyncHow(user))
        os.waitpid(forks.pids[-1], 0)
        assert rig.engine.childproc_reaped(forks.pids[-1], status)
        assert rig.queued() == [OperationComplete(domid, rc, for_user=user)]


def a_childs_end_is_told_once_and_only_to_its_engine(rig: Rig) -> None:
    forks = Forks()
    other = rig.another()
    for each in (rig, other):
        set_mode(each, SigchldOwner.MAINLOOP, forks)
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    [pid] = forks.pids
    os.waitpid(pid, 0)
    assert not other.engine.childproc_reaped(pid, 0)
    assert rig.engine.childproc_reaped(pid, 0)
    assert not rig.engine.childproc_reaped(pid, 0)
    assert not rig.engine.childproc_reaped(os.getpid(), 0)


def sigchld_occurred_reaps_the_engines_children_and_no_others(rig: Rig) -> None:
    forks = Forks()
    set_mode(rig, SigchldOwner.MAINLOOP, forks)
    mine = child_that_exits(5)
    for user in (1, 2):
        rig.engine.domain_destroy(rig.domain(), AsyncHow(user))
    for pid in (*forks.pids, mine):
        ended(pid)
    rig.engine.childproc_sigchld_occurred()
    assert sorted(users(rig.queued())) == [1, 2]
    assert os.waitpid(mine, 0) == (mine, 5 << 8)
    for pid in forks.pids:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, 0)


def sigchld_occurred_leaves_children_that_go_on(rig: Rig) -> None:
    set_mode(rig, SigchldOwner.MAINLOOP, lambda: stopped_fork(pids))
    pids: list[int] = []
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    rig.engine.childproc_sigchld_occurred()
    assert rig.queued() == []
    os.kill(pids[0], signal.SIGCONT)
    ended(pids[0])
    rig.engine.childproc_sigchld_occurred()
    assert users(rig.queued()) == [1]


def a_child_that_somebody_else_reaped_fails_its_operation_only(rig: Rig) -> None:
    listener = rig.listen(0)
    forks = Forks()
    set_mode(rig, SigchldOwner.MAINLOOP, forks)
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    os.waitpid(forks.pids[0], 0)
    rig.engine.childproc_sigchld_occurred()
    [(kind, _, errnoval)] = listener.disasters
    assert (kind, errnoval) == (0, 10)
    [event] = rig.queued()
    assert getattr(event, "rc", None) == FAIL
    assert rig.engine.dead is None


def an_engine_beyond_help_can_be_freed_once_its_child_has_ended(rig: Rig) -> None:
    fail_next = rig.host.fail_next  # which not every host has: before there is an operation that must end first
    listener = rig.listen()
    pids: list[int] = []
    set_mode(rig, SigchldOwner.MAINLOOP, lambda: stopped_fork(pids))
    rig.engine.evenable_domain_death(rig.domain())
    rig.settle()
    how = AsyncHow(1)
    rig.engine.domain_destroy(rig.domain(), how)
    fail_next("getdomaininfolist", 5)
    rig.host.release()
    rig.until(lambda: listener.disasters, "the disaster is reported")
    assert rig.engine.dead is not None
    with contextlib.suppress(NotFound):  # if it has ended with the engine
        rig.engine.ao_abort(how)
    os.kill(pids[0], signal.SIGCONT)
    rig.engine.childproc_reaped(*os.waitpid(pids[0], 0))
    rig.engine.ctx_free()


def a_child_stolen_from_an_engine_that_reaps_everything(rig: Rig) -> None:
    listener = rig.listen(0)
    forks = Forks()
    set_mode(rig, SigchldOwner.LIBXL, forks)
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    os.waitpid(forks.pids[0], 0)
    if rig.expected(differences.STOLEN_CHILD) == "fails":
        [event] = rig.until(rig.queued, "the operation fails")
        assert getattr(event, "rc", None) == FAIL
        assert len(listener.disasters) == 1
    else:
        for _ in range(5):
            rig.turn(10)
        assert rig.queued() == []
        # So its ctx can't be freed either.
        rig.cleanup.pop_all()


def a_fork_replacement_is_used_in_every_mode(rig: Rig) -> None:
    for owner in SigchldOwner:
        forks = Forks()
        set_mode(rig, owner, forks)
        rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
        [pid] = forks.pids
        if owner is SigchldOwner.MAINLOOP:
            assert rig.engine.childproc_reaped(*os.waitpid(pid, 0))
        rig.until(lambda: users(rig.queued()) == [1], f"destroying ends in mode {owner.name}")
    set_mode(rig, SigchldOwner.LIBXL)


def a_fork_that_fails_fails_the_operation_and_spares_the_domain(rig: Rig) -> None:
    def fail() -> int:
        raise BlockingIOError(11, "no more processes")

    domid = rig.domain()
    for owner in (SigchldOwner.LIBXL, SigchldOwner.MAINLOOP):
        set_mode(rig, owner, fail)
        rig.engine.domain_destroy(domid, AsyncHow(1))
        assert rig.queued() == [OperationComplete(domid, FAIL, for_user=1)]
        assert rig.host.domain_info(domid).domid == domid
        assert not sigchld_is_caught()


def whatever_a_fork_replacement_raises_the_operation_fails_and_the_next_works(rig: Rig) -> None:
    domid = rig.domain()
    for error in (ZeroDivisionError, KeyboardInterrupt):

        def choke(error: type[BaseException] = error) -> int:
            raise error

        set_mode(rig, SigchldOwner.MAINLOOP, choke)
        with pytest.raises(error):
            rig.engine.domain_destroy(domid, AsyncHow(1))
        assert rig.queued() == [OperationComplete(domid, FAIL, for_user=1)]
        assert rig.engine.dead is None
    forks = Forks()
    set_mode(rig, SigchldOwner.MAINLOOP, forks)
    rig.engine.domain_destroy(domid, AsyncHow(2))
    assert rig.engine.childproc_reaped(*os.waitpid(forks.pids[0], 0))
    assert users(rig.queued()) == [2]


def destroying_what_does_not_exist_fails_after_the_start(rig: Rig) -> None:
    rig.engine.domain_destroy(31000, AsyncHow(1))
    assert rig.queued() == [OperationComplete(31000, DomainNotFound.code, for_user=1)]
    with pytest.raises(DomainNotFound):
        rig.engine.domain_destroy(31000)


def a_hypercall_that_fails_in_the_child_fails_the_operation(rig: Rig) -> None:
    domid = rig.domain()
    rig.host.fail_next("destroydomain", 1)
    with pytest.raises(Fail):
        rig.engine.domain_destroy(domid)
    assert rig.host.domain_info(domid).domid == domid


def destroying_removes_what_the_toolstack_wrote(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    backend = rig.host.read(f"/local/domain/{domid}/device/vbd/51712/backend").decode()
    rig.engine.domain_destroy(domid)
    for path in (f"/local/domain/{domid}/name", f"/libxl/{domid}/type", backend + "/params"):
        with pytest.raises(OSError, match=r"(?i)no such|enoent|2"):
            rig.host.read(path)


def a_synchronous_operation_that_nobody_could_end_is_refused(rig: Rig) -> None:
    set_mode(rig, SigchldOwner.MAINLOOP)
    domid = rig.domain()
    with pytest.raises(MisuseError, match="AsyncHow"):
        rig.engine.domain_destroy(domid)
    assert rig.host.domain_info(domid).domid == domid


def a_child_is_waited_for_in_event_wait(rig: Rig) -> None:
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    assert users([rig.engine.event_wait()]) == [1]


def many_children_at_once_are_all_reaped(rig: Rig) -> None:
    domids = [rig.domain() for _ in range(20)]
    for user, domid in enumerate(domids):
        rig.engine.domain_destroy(domid, AsyncHow(user))
    ended: list[int] = []

    def all_ended() -> bool:
        ended.extend(users(rig.queued()))
        return len(ended) >= 20

    rig.until(all_ended, "all operations end")
    assert sorted(ended) == list(range(20))


def other_threads_may_wait_meanwhile(rig: Rig) -> None:
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(rig.engine.event_wait().for_user), daemon=True)
    thread.start()
    set_mode(rig, SigchldOwner.LIBXL)
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    deadline = time.monotonic() + rig.patience
    while thread.is_alive() and time.monotonic() < deadline:
        # Python runs signal handlers between this thread's own steps.
        thread.join(0.01)
    assert ended == [1]
