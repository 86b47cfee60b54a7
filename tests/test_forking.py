# SPDX-License-Identifier: LGPL-2.1-or-later
import os
import threading
from collections.abc import Callable

import pytest

from gxl.forking import in_library_fork, library_fork


def said_by_a_child(fork: Callable[[], int], say: Callable[[], object] = in_library_fork) -> str:
    """What `say` returns inside the child that `fork` makes."""
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        os.write(writer, str(say()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    os.waitpid(pid, 0)
    return said


def library_forks() -> int:
    with library_fork():
        return os.fork()


def test_a_fork_of_the_applications_is_none_of_the_librarys() -> None:
    assert not in_library_fork()
    with library_fork():
        assert in_library_fork()
        with library_fork():
            assert in_library_fork()
        assert in_library_fork()
    assert not in_library_fork()


def test_the_mark_goes_away_when_the_fork_fails() -> None:
    with pytest.raises(BlockingIOError), library_fork():
        raise BlockingIOError
    assert not in_library_fork()


def test_at_fork_handlers_see_the_mark_in_both_processes() -> None:
    seen: list[tuple[str, bool]] = []
    child: list[bool] = []
    os.register_at_fork(
        before=lambda: seen.append(("before", in_library_fork())),
        after_in_parent=lambda: seen.append(("parent", in_library_fork())),
        after_in_child=lambda: child.append(in_library_fork()),
    )

    assert said_by_a_child(library_forks, lambda: child) == "[True]"
    assert said_by_a_child(os.fork, lambda: child) == "[False]"
    assert seen == [("before", True), ("parent", True), ("before", False), ("parent", False)]


def test_the_mark_is_gone_in_the_child_once_the_fork_is_made() -> None:
    assert said_by_a_child(library_forks) == "False"


# From Python 3.12 on, a fork beside another thread is warned of.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_an_applications_fork_is_told_apart_from_a_librarys_in_another_thread() -> None:
    inside, done = threading.Event(), threading.Event()

    def forking() -> None:
        with library_fork():
            inside.set()
            done.wait()

    thread = threading.Thread(target=forking)
    thread.start()
    try:
        assert inside.wait(10)
        assert not in_library_fork()
        assert said_by_a_child(os.fork) == "False"
    finally:
        done.set()
        thread.join()
