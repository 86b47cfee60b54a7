# SPDX-License-Identifier: LGPL-2.1-or-later
"""C's memory: what opening, watching, receiving, operating and closing take from malloc, they give back.

Counted by glibc itself, and looked through by valgrind. libxl never frees its nexi, of which a ctx with an operation
has several: with all else that stays, 60 to 190 bytes were measured for each Context.
"""

from __future__ import annotations

import re

from afflicted import run
from requirements import Requirements

from gxl.simhost.remote import RemoteHost

NEXUS = 24
"""The size of a libxl__osevent_hook_nexus, on 64-bit machines."""

CYCLE = """
def cycle():
    ctx = open_context()
    domid = host.create_domain()
    host.add_disk(domid, "xvda", "vbd")
    with ctx.evenable_domain_death(domid), ctx.evenable_disk_eject(domid, "xvda"):
        host.eject_disk(domid, "xvda")
        assert isinstance(ctx.event_wait(timeout=60), gxl.DiskEject)
        ctx.domain_pause(domid)
        ctx.domain_unpause(domid)
        try:
            ctx.domain_pause(30000)
        except gxl.LibxlError:
            pass
        ctx.domain_destroy(domid)
        while not isinstance(ctx.event_wait(timeout=60), gxl.DomainDeath):
            pass
    ctx.close(60)
"""

COUNTED = """
import gc

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks".split()]
    _fields_ += [(name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo

def in_use():
    # What has ended, such as a greenlet that went on to tell somebody, has some 20 kB until the loop has turned.
    for _ in range(3):
        gevent.sleep(0.001)
    # Python keeps each name that an attribute was looked up by, some 200 kB of them in time.
    sys._clear_type_cache()
    gc.collect()
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd

def grown(times):
    before = in_use()
    for _ in range(times):
        cycle()
    return in_use() - before

count = int(sys.argv[2])
grown(count)
growths = [grown(count) for _ in range(3)]
print(min(growths) / count)
"""


def test_a_contexts_life_leaves_only_libxls_nexi(served_host: tuple[RemoteHost, dict[str, str]]) -> None:
    # Python's small objects come from malloc, too, so that what keeps them counts as well.
    result = run(CYCLE + COUNTED, served_host, "libxl", "40", PYTHONMALLOC="malloc", seconds=300)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 350, f"{result.stdout} bytes a Context"


RECOVERY = """
from gxl import recovery
recovery.FIRST_SECONDS, recovery.LONGEST_SECONDS = 0.001, 0.01
ctx = gxl.Context(engine, hub="gevent", recover=True)
for _ in range(5):
    domid = host.create_domain()
    ctx.evenable_domain_death(domid)
host.add_disk(domid, "xvda", "vbd")
ctx.evenable_disk_eject(domid, "xvda")

def cycle():
    before = ctx.metrics().recoveries
    ctx.domain_destroy(host.create_domain(), wait=False)
    host.drop_connections()
    while ctx.metrics().recoveries == before or len(list(ctx._pump.reigns())) > 1:
        gevent.sleep(0.002)
    while ctx.event_check():
        pass
"""


def test_a_recovery_leaves_only_libxls_nexi(served_host: tuple[RemoteHost, dict[str, str]]) -> None:
    end = "\nassert ctx.metrics().abandoned == 0\nctx.close(10)\n"
    result = run(RECOVERY + COUNTED + end, served_host, "libxl", "20", PYTHONMALLOC="malloc", seconds=300)
    assert result.returncode == 0, result.stderr
    # 110 to 280 bytes were measured; a ctx that is not freed is some 10 000.
    assert float(result.stdout) < 600, f"{result.stdout} bytes a recovery"


VALGRIND = ("valgrind", "--leak-check=full", "--show-leak-kinds=definite", "--num-callers=30", "--quiet")


def test_valgrind_finds_nothing_that_is_lost_in_libxl(
    served_host: tuple[RemoteHost, dict[str, str]], require: Requirements
) -> None:
    require.program("valgrind")
    times = 6
    program = CYCLE + f"for _ in range({times}): cycle()\n"
    result = run(program, served_host, "libxl", wrap=VALGRIND, PYTHONMALLOC="malloc", seconds=400)
    assert result.returncode == 0, result.stderr[-3000:]
    headline = re.compile(r"== ([\d,]+) (?:\([^)]*\) )?bytes in ([\d,]+) blocks are definitely lost")
    lost = []
    for record in re.split(r"(?m)^==\d+== (?=[\d,]+ .*bytes in )", result.stderr):
        found = headline.search(f"== {record}")
        if found and re.search(r"libxenlight|libxenstore|libxentoollog|_cffi_backend", record):
            size, blocks = (int(number.replace(",", "")) for number in found.groups())
            if blocks >= times and size != NEXUS * blocks:
                lost.append(record)
    assert "definitely lost" in result.stderr, "valgrind does not see the nexi: it sees nothing"
    assert not lost, "\n".join(lost)
    assert not re.search(r"Invalid (read|write|free)", result.stderr), result.stderr[-3000:]
