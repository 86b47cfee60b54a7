# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for child processes and SIGCHLD. Destroying a domain forks.

SIGCHLD belongs to the whole process, so each case runs in a fresh one.
"""

from __future__ import annotations

import os
import posix
import signal
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gxl.errors import DomainNotFound, Fail, MisuseError
from gxl.events import OperationComplete
from gxl.interfaces import AsyncHow, SigchldOwner
from gxl.testing import differences
from gxl.testing.engines.rig import Rig, users

FAIL = -3
OWNERS = (SigchldOwner.LIBXL, SigchldOwner.LIBXL_ALWAYS, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP)


def _mode(
    rig: Rig,
    owner: SigchldOwner,
    fork_replacement: Callable[[], int] | None = None,
    reaped_callback: Callable[[int, int], object] | None = None,
) -> None:
    rig.engine.childproc_setmode(
        SimpleNamespace(chldowner=owner, fork_replacement=fork_replacement, reaped_callback=reaped_callback)
    )


def _caught() -> bool:
    """Whether the kernel calls a handler for SIGCHLD in this process."""
    with open("/proc/self/status") as status:
        [mask] = [line.split()[1] for line in status if line.startswith("SigCgt:")]
    return bool(int(mask, 16) >> (signal.SIGCHLD - 1) & 1)


def _child(status: int = 0) -> int:
    """A child of the application's, that ends at once."""
    pid = os.fork()
    if pid == 0:
        os._exit(status)
    return pid


def _ended(pid: int) -> int:
    """Waits for the end of `pid`, and leaves it to be reaped."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


class _Forks:
    """A fork_replacement that keeps the pids."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def __call__(self) -> int:
        pid = posix.fork()
        if pid:
            self.pids.append(pid)
        return pid


def in_every_mode_that_owns_sigchld_destroying_works(rig: Rig) -> None:
    for owner in OWNERS:
        _mode(rig, owner)
        first, second = rig.domain(), rig.domain()
        rig.engine.domain_destroy(first)
        rig.engine.domain_destroy(second, AsyncHow(1))
        rig.until(lambda: users(rig.queued()) == [1], f"destroying ends in mode {owner.name}")
        assert not {first, second} & {info.domid for info in rig.host.domains()}
    _mode(rig, SigchldOwner.LIBXL)


def by_default_sigchld_is_the_engines_only_while_it_has_a_child(rig: Rig) -> None:
    assert not _caught()
    before = len(rig.engine.osevent_beforepoll()[0])
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    assert _caught()
    assert len(rig.engine.osevent_beforepoll()[0]) == before + 1
    rig.until(lambda: users(rig.queued()) == [1], "destroying ends")
    assert not _caught()
    assert len(rig.engine.osevent_beforepoll()[0]) == before
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


def in_the_always_modes_sigchld_is_the_engines_from_setmode_on(rig: Rig) -> None:
    for owner in (SigchldOwner.LIBXL_ALWAYS, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP):
        other = rig.another()
        _mode(other, owner)
        assert _caught()
        _mode(other, SigchldOwner.LIBXL)
        assert not _caught()
        _mode(other, owner)
        other.engine.ctx_free()
        assert not _caught()


def engines_share_the_handler_and_the_last_one_removes_it(rig: Rig) -> None:
    one, two = rig.another(), rig.another()
    for each in (one, two):
        _mode(each, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP)
    domids = rig.domain(), rig.domain()
    one.engine.domain_destroy(domids[0], AsyncHow(1))
    two.engine.domain_destroy(domids[1], AsyncHow(2))
    one.until(lambda: users(one.queued()) == [1], "the first engine's operation ends")
    two.until(lambda: users(two.queued()) == [2], "the second engine's operation ends")
    one.engine.ctx_free()
    assert _caught()
    two.engine.ctx_free()
    assert not _caught()


def in_mainloop_mode_sigchld_is_never_touched_and_nothing_is_reaped(rig: Rig) -> None:
    forks = _Forks()
    _mode(rig, SigchldOwner.MAINLOOP, forks)
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    assert not _caught()
    [pid] = forks.pids
    _ended(pid)
    rig.turn()
    rig.turn()
    assert rig.queued() == []
    _, status = os.waitpid(pid, 0)
    assert rig.engine.childproc_reaped(pid, status)
    assert users(rig.queued()) == [1]


def a_reaped_child_ends_its_operation_with_its_status(rig: Rig) -> None:
    forks = _Forks()
    _mode(rig, SigchldOwner.MAINLOOP, forks)
    for user, (status, rc) in enumerate([(0, 0), (1 << 8, FAIL), (signal.SIGKILL, FAIL), (255 << 8, FAIL)]):
        domid = rig.domain()
        rig.engine.domain_destroy(domid, AsyncHow(user))
        os.waitpid(forks.pids[-1], 0)
        assert rig.engine.childproc_reaped(forks.pids[-1], status)
        assert rig.queued() == [OperationComplete(domid, rc, for_user=user)]


def a_childs_end_is_told_once_and_only_to_its_engine(rig: Rig) -> None:
    forks = _Forks()
    other = rig.another()
    for each in (rig, other):
        _mode(each, SigchldOwner.MAINLOOP, forks)
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    [pid] = forks.pids
    os.waitpid(pid, 0)
    assert not other.engine.childproc_reaped(pid, 0)
    assert rig.engine.childproc_reaped(pid, 0)
    assert not rig.engine.childproc_reaped(pid, 0)
    assert not rig.engine.childproc_reaped(os.getpid(), 0)


def sigchld_occurred_reaps_the_engines_children_and_no_others(rig: Rig) -> None:
    forks = _Forks()
    _mode(rig, SigchldOwner.MAINLOOP, forks)
    mine = _child(5)
    for user in (1, 2):
        rig.engine.domain_destroy(rig.domain(), AsyncHow(user))
    for pid in (*forks.pids, mine):
        _ended(pid)
    rig.engine.childproc_sigchld_occurred()
    assert sorted(users(rig.queued())) == [1, 2]
    assert os.waitpid(mine, 0) == (mine, 5 << 8)
    for pid in forks.pids:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, 0)


def sigchld_occurred_leaves_children_that_go_on(rig: Rig) -> None:
    _mode(rig, SigchldOwner.MAINLOOP, lambda: _stopped_fork(pids))
    pids: list[int] = []
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    rig.engine.childproc_sigchld_occurred()
    assert rig.queued() == []
    os.kill(pids[0], signal.SIGCONT)
    _ended(pids[0])
    rig.engine.childproc_sigchld_occurred()
    assert users(rig.queued()) == [1]


def _stopped_fork(pids: list[int]) -> int:
    """A fork whose child stops before it does anything."""
    pid = posix.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        return 0
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    pids.append(pid)
    return pid


def a_child_that_somebody_else_reaped_fails_its_operation_only(rig: Rig) -> None:
    listener = rig.listen(0)
    forks = _Forks()
    _mode(rig, SigchldOwner.MAINLOOP, forks)
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    os.waitpid(forks.pids[0], 0)
    rig.engine.childproc_sigchld_occurred()
    [(kind, _, errnoval)] = listener.disasters
    assert (kind, errnoval) == (0, 10)
    [event] = rig.queued()
    assert getattr(event, "rc", None) == FAIL
    assert rig.engine.dead is None


def a_child_stolen_from_an_engine_that_reaps_everything(rig: Rig) -> None:
    listener = rig.listen(0)
    forks = _Forks()
    _mode(rig, SigchldOwner.LIBXL, forks)
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


def in_libxl_mode_the_engine_reaps_every_child_and_reports_the_foreign_ones(rig: Rig) -> None:
    reaped: list[tuple[int, int]] = []
    forks: list[int] = []

    def answer(pid: int, status: int) -> bool:
        reaped.append((pid, status))
        return True

    for owner in (SigchldOwner.LIBXL, SigchldOwner.LIBXL_ALWAYS):
        # A child of its own keeps the engine reaping in mode LIBXL.
        _mode(rig, owner, lambda: _stopped_fork(forks), answer)
        rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
        mine = _ended(_child(3))
        rig.until(lambda: reaped, f"the child is reported in mode {owner.name}")
        assert reaped == [(mine, 3 << 8)]
        with pytest.raises(ChildProcessError):
            os.waitpid(mine, 0)
        os.kill(forks.pop(), signal.SIGCONT)
        rig.until(lambda: users(rig.queued()) == [1], "the operation ends")
        assert reaped == [(mine, 3 << 8)], "the engine's own child was reported to the application"
        reaped.clear()
    _mode(rig, SigchldOwner.LIBXL)


def a_reaped_callback_may_call_the_engine(rig: Rig) -> None:
    found: list[Any] = []
    _mode(rig, SigchldOwner.LIBXL_ALWAYS, None, lambda pid, status: found.append(rig.engine.domain_info(0)) or True)
    _ended(_child())
    rig.until(lambda: found, "the child is reported")
    _mode(rig, SigchldOwner.LIBXL)


def a_reaped_callback_that_raises_is_a_disaster_and_the_rest_goes_on(rig: Rig) -> None:
    listener = rig.listen(0)

    def choke(pid: int, status: int) -> bool:
        raise ZeroDivisionError

    _mode(rig, SigchldOwner.LIBXL_ALWAYS, None, choke)
    pid = _ended(_child(9))
    rig.until(lambda: listener.disasters, "the disaster is reported")
    [(kind, message, _)] = listener.disasters
    assert kind == 0
    assert str(pid) in message
    assert rig.engine.dead is None
    rig.engine.domain_destroy(rig.domain())
    _mode(rig, SigchldOwner.LIBXL)


def selective_reaping_leaves_the_applications_children(rig: Rig) -> None:
    _mode(rig, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP, None, lambda pid, status: pytest.fail("it is not used"))
    mine = _ended(_child(4))
    rig.engine.domain_destroy(rig.domain())
    rig.turn()
    assert os.waitpid(mine, 0) == (mine, 4 << 8)
    _mode(rig, SigchldOwner.LIBXL)


def a_fork_replacement_is_used_in_every_mode(rig: Rig) -> None:
    for owner in SigchldOwner:
        forks = _Forks()
        _mode(rig, owner, forks)
        rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
        [pid] = forks.pids
        if owner is SigchldOwner.MAINLOOP:
            assert rig.engine.childproc_reaped(*os.waitpid(pid, 0))
        rig.until(lambda: users(rig.queued()) == [1], f"destroying ends in mode {owner.name}")
    _mode(rig, SigchldOwner.LIBXL)


def a_fork_that_fails_fails_the_operation_and_spares_the_domain(rig: Rig) -> None:
    def fail() -> int:
        raise BlockingIOError(11, "no more processes")

    domid = rig.domain()
    for owner in (SigchldOwner.LIBXL, SigchldOwner.MAINLOOP):
        _mode(rig, owner, fail)
        rig.engine.domain_destroy(domid, AsyncHow(1))
        assert rig.queued() == [OperationComplete(domid, FAIL, for_user=1)]
        assert rig.host.domain_info(domid).domid == domid
        assert not _caught()


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


def reports_are_for_mainloop_mode(rig: Rig) -> None:
    for owner in OWNERS:
        _mode(rig, owner)
        with pytest.raises(MisuseError, match="MAINLOOP"):
            rig.engine.childproc_reaped(1, 0)
        with pytest.raises(MisuseError, match="MAINLOOP"):
            rig.engine.childproc_sigchld_occurred()
    _mode(rig, SigchldOwner.LIBXL)


def the_mode_stays_while_there_is_a_child(rig: Rig) -> None:
    forks = _Forks()
    _mode(rig, SigchldOwner.MAINLOOP, forks)
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    with pytest.raises(MisuseError, match="child"):
        _mode(rig, SigchldOwner.LIBXL)
    with pytest.raises(MisuseError, match="ctx_free with"):
        rig.engine.ctx_free()
    assert rig.engine.childproc_reaped(*os.waitpid(forks.pids[0], 0))
    _mode(rig, SigchldOwner.LIBXL)


def a_handler_that_somebody_else_has_is_named_and_respected(rig: Rig) -> None:
    def handler(number: int, frame: object) -> None:
        pass

    signal.signal(signal.SIGCHLD, handler)
    for owner in (SigchldOwner.LIBXL_ALWAYS, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP):
        with pytest.raises(MisuseError, match=r"handler.*MAINLOOP"):
            _mode(rig, owner)
    domid = rig.domain()
    for how in (AsyncHow(1), None):
        with pytest.raises(MisuseError, match=r"handler.*MAINLOOP"):
            rig.engine.domain_destroy(domid, how)
    assert rig.queued() == []
    assert signal.getsignal(signal.SIGCHLD) is handler
    assert rig.host.domain_info(domid).domid == domid


def a_synchronous_operation_that_nobody_could_end_is_refused(rig: Rig) -> None:
    _mode(rig, SigchldOwner.MAINLOOP)
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


def a_postforked_child_has_sigchld_back(rig: Rig) -> None:
    _mode(rig, SigchldOwner.LIBXL_ALWAYS)
    pid = posix.fork()
    if pid == 0:
        status = 1
        try:
            rig.engine.postfork_child_noexec()
            status = 2 if _caught() else 0
        finally:
            os._exit(status)
    # The engine reaps it, so its status comes by reaped_callback; here it is enough to look.
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert info is not None
    assert info.si_status == 0
    assert _caught()
    _mode(rig, SigchldOwner.LIBXL)
    assert not _caught()


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
    assert not _caught()
    _mode(rig, SigchldOwner.MAINLOOP)
    for arguments in (("1", 0), (1, None), (True, 0)):
        with pytest.raises(TypeError):
            rig.engine.childproc_reaped(*arguments)
    for numbers in ((0, 0), (-1, 0), (1, -1), (2**31, 0)):
        with pytest.raises(ValueError, match="waitpid"):
            rig.engine.childproc_reaped(*numbers)


def a_signal_of_nobodys_child_is_harmless(rig: Rig) -> None:
    _mode(rig, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGCHLD)
        rig.turn(100)
    assert users(rig.queue_deaths(1)) == [1]
    rig.queued()
    _mode(rig, SigchldOwner.LIBXL)


def other_threads_may_wait_meanwhile(rig: Rig) -> None:
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(rig.engine.event_wait().for_user), daemon=True)
    thread.start()
    _mode(rig, SigchldOwner.LIBXL)
    rig.engine.domain_destroy(rig.domain(), AsyncHow(1))
    deadline = time.monotonic() + rig.patience
    while thread.is_alive() and time.monotonic() < deadline:
        # Python runs signal handlers between this thread's own steps.
        thread.join(0.01)
    assert ended == [1]
