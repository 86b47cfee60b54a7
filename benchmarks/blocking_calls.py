# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long each call lasts inside libxl: the figures of docs/limits.md.

    python benchmarks/blocking_calls.py            on a simulated host: libxl's own work and its xenstore round trips
    python -m realxen --shell "python benchmarks/blocking_calls.py /run/realxen/guests"
                                                   on a real Xen under emulation: what builds memory, too

Prints the median and the longest of several calls, in milliseconds.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gxl.engines.libxl import LibxlEngine
from gxl.errors import GxlError
from gxl.interfaces import AsyncHow
from gxl.simhost import preload
from gxl.simhost.launch import launch

ROUNDS = 20
DOMAINS = 100
spans: dict[str, list[float]] = defaultdict(list)


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        spans[what].append(time.perf_counter() - began)


def finish(engine: LibxlEngine, start: Callable[[AsyncHow], Any], what: str) -> Any:
    """Start an operation, drive the loop to its end, and note both kinds of calls."""
    ended: list[int] = []
    with timed(f"{what}, its start"):
        result = start(AsyncHow(callback=ended.append))
    while not ended:
        fds, timeout_ms = engine.osevent_beforepoll()
        poll = select.poll()
        for fd, events in fds:
            poll.register(fd, events)
        ready = dict(poll.poll(timeout_ms))
        with timed(f"{what}, afterwards"):
            engine.osevent_afterpoll([(fd, events, ready.get(fd, 0)) for fd, events in fds])
    if ended[0]:
        raise SystemExit(f"{what} failed: {ended[0]}")
    return result


def evgens(engine: LibxlEngine, domid: int) -> None:
    with timed("evenable_domain_death"):
        death = engine.evenable_domain_death(domid)
    with timed("evenable_disk_eject"):
        eject = engine.evenable_disk_eject(domid, "xvda")
    with timed("evdisable_disk_eject"):
        engine.evdisable_disk_eject(eject)
    with timed("evdisable_domain_death"):
        engine.evdisable_domain_death(death)
    with timed("domain_info"):
        engine.domain_info(domid)
    with timed("list_domain"):
        engine.list_domain()


def simulated() -> None:
    if "LD_PRELOAD" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "LD_PRELOAD": str(preload.library())})
    with launch() as (host, variables):
        os.environ.update(variables)
        engine = LibxlEngine()
        for _ in range(DOMAINS):
            host.create_domain()
        for _ in range(ROUNDS):
            domid = host.create_domain(kind="hvm")
            host.add_disk(domid, "hdc")
            uuid = host.domain_info(domid).uuid
            notes = {"c_info": {"type": "hvm", "name": "x", "uuid": str(uuid)}, "b_info": {"type.hvm": {}}}
            (host.directory / "lib" / f"userdata-d.{domid}.{uuid}.libxl-json").write_text(json.dumps(notes))
            evgens(engine, domid)
            finish(engine, partial(engine.cdrom_insert, domid, "hdc", "/x.iso", "raw"), "cdrom_insert")
            finish(engine, partial(engine.domain_pause, domid), "domain_pause")
            finish(engine, partial(engine.domain_unpause, domid), "domain_unpause")
            pv = host.create_domain()
            finish(engine, partial(engine.domain_shutdown, pv), "domain_shutdown")
            finish(engine, partial(engine.domain_destroy, pv), "domain_destroy")
            host.destroy_domain(domid)
        engine.ctx_free()


def real(guests: Path) -> None:
    engine = LibxlEngine()
    for kernel, mebibytes in (("tiny", 32), ("tiny", 64), ("tiny", 128), ("tiny", 256), ("linux-kernel", 256)):
        for _ in range(2):
            c_info = {"type": "pv", "name": f"guest{mebibytes}", "uuid": str(uuid4())}
            b_info = {"max_memkb": mebibytes << 10, "target_memkb": mebibytes << 10, "max_vcpus": 1, "type.pv": {}}
            b_info["kernel"] = str(guests / kernel)
            if kernel != "tiny":
                b_info["ramdisk"] = str(guests / "linux-initramfs")
            config = json.dumps({"c_info": c_info, "b_info": b_info})
            what = f"domain_create_new ({kernel}, {mebibytes} MiB)"
            new = finish(engine, partial(engine.domain_create_new, config), what)
            evgens(engine, new.domid)
            finish(engine, partial(engine.domain_destroy, new.domid), "domain_destroy")
    engine.ctx_free()


def main() -> None:
    try:
        real(Path(sys.argv[1])) if len(sys.argv) > 1 else simulated()
    except GxlError as error:
        sys.exit(str(error))
    for what, seconds in spans.items():
        print(f"{what:52} {median(seconds) * 1000:9.2f} {max(seconds) * 1000:9.2f}")


if __name__ == "__main__":
    main()
