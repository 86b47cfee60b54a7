# SPDX-License-Identifier: LGPL-2.1-or-later
"""The unmodified libxenlight and xl on a simulated host."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from requirements import Requirements

from gxl.simhost.launch import launch
from gxl.simhost.remote import RemoteHost

PROGRAM = Path(__file__).with_name("libxl_program.py")
Served = tuple[RemoteHost, dict[str, str]]


@pytest.fixture(scope="module")
def process(require: Requirements) -> Iterator[Served]:
    require.program("cc")
    with launch() as (host, variables):
        yield host, {**os.environ, **variables}


@pytest.fixture
def served(process: Served) -> Served:
    process[0].reset()
    return process


class Program:
    """The program on libxenlight, running."""

    def __init__(self, require: Requirements, environment: dict[str, str], *arguments: str) -> None:
        libraries = [require.library("xenlight"), require.library("xentoollog")]
        command = [sys.executable, str(PROGRAM), *libraries, *arguments]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def rest(self) -> list[str]:
        output, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return output.splitlines()


def test_libxl_reports_eject_shutdown_and_death_of_simulated_domains(served: Served, require: Requirements) -> None:
    host, environment = served
    domid = host.create_domain()
    host.add_disk(domid, "xvda")
    program = Program(require, environment, "events", str(domid), "xvda")
    assert [program.line(), program.line()] == ["enable death 0", "enable eject 0"]
    host.eject_disk(domid, "xvda")
    assert program.line() == f"eject {domid} xvda"
    assert host.read(f"/local/domain/{domid}/device/vbd/51712/eject") == b""
    host.shutdown_domain(domid, 3)
    assert program.line() == "shutdown 3"
    host.destroy_domain(domid)
    assert program.rest() == ["death", "free 0"]


def test_a_death_that_shares_its_firing_with_a_shutdown_reports_only_death(
    served: Served, require: Requirements
) -> None:
    host, environment = served
    domid = host.create_domain()
    host.add_disk(domid, "xvda")
    program = Program(require, environment, "events", str(domid), "xvda")
    assert [program.line(), program.line()] == ["enable death 0", "enable eject 0"]
    # The scan that a new watch causes comes before the eject.
    host.eject_disk(domid, "xvda")
    assert program.line() == f"eject {domid} xvda"
    with host.quiet():
        host.shutdown_domain(domid, 1)
        host.mark_dying(domid)
    assert program.rest() == ["death", "free 0"]


def test_libxl_operations_change_the_simulated_host(served: Served, require: Requirements) -> None:
    host, environment = served
    domid = host.create_domain()
    host.add_disk(domid, "xvda", "vbd")
    assert Program(require, environment, "operations", str(domid)).rest() == [
        "listed 2",
        "pause 0 paused",
        "unpause 0 not paused",
        "shutdown 0 not paused",
        "destroy 0",
        "info -21",
        "free 0",
    ]
    assert [info.domid for info in host.domains()] == [0]
    assert host.ls("/local/domain") == ["0"]


# Over one fd, eight threads and their forked children ask at once, each for one of two things.
CROWD = """
import fcntl, os, struct, threading
fd = os.open("/dev/xen/privcmd", os.O_RDWR)
answers = {0: 4 << 16 | 17, 7: 4096}
wrong = []
def ask(what):
    call = bytearray(struct.pack("6Q", 17, what, 0, 0, 0, 0))
    for _ in range(300):
        if fcntl.ioctl(fd, 0x305000, call) != answers[what]:
            wrong.append(what)
def ask_with_child(what):
    pid = os.fork()
    ask(what if pid else 7 - what)
    if pid == 0:
        os._exit(len(wrong) > 0)
    if os.waitpid(pid, 0)[1]:
        wrong.append("child")
threads = [threading.Thread(target=ask_with_child, args=(number % 2 * 7,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(wrong)
"""


def test_threads_and_forked_children_that_share_an_fd_get_their_own_answers(served: Served) -> None:
    _, environment = served
    done = subprocess.run(
        [sys.executable, "-c", CROWD], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_xl_lists_the_simulated_domains(served: Served, require: Requirements) -> None:
    xl = require.program("xl")
    host, environment = served
    host.create_domain("web", memory_kb=512 * 1024)
    host.create_domain("db", paused=True)
    done = subprocess.run([xl, "list"], env=environment, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    _, dom0, web, db = (line.split() for line in done.stdout.splitlines())
    assert dom0[:2] == ["Domain-0", "0"]
    assert web[:5] == ["web", "1", "512", "1", "r-----"]
    assert db[:5] == ["db", "2", "256", "1", "--p---"]


def test_without_a_host_the_preloaded_library_changes_nothing(served: Served) -> None:
    _, environment = served
    environment = {name: value for name, value in environment.items() if name != "GXL_SIM_HYPERCALLS"}
    show = "import os; print(os.path.exists('/dev/null'), open('/proc/self/comm').read().strip() != '')"
    done = subprocess.run(
        [sys.executable, "-c", show], env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "True True\n"


def test_with_a_host_that_is_gone_opening_says_so(served: Served, tmp_path: Path) -> None:
    _, environment = served
    environment = {**environment, "GXL_SIM_HYPERCALLS": str(tmp_path / "hypercalls")}
    attempt = "import os\ntry: os.open('/dev/xen/privcmd', os.O_RDWR)\nexcept FileNotFoundError: print('not there')"
    done = subprocess.run(
        [sys.executable, "-c", attempt], env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "not there\n"
