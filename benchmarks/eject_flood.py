# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long one call into libxl lasts while a guest floods it with ejects, and what the limit of gxl.floods is good for.

Run: python benchmarks/eject_flood.py. The real libxenlight, on a simulated host in a process of its own; the guest is a
third process, which writes as often as the line says, or as fast as the host takes it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from gxl.simhost.launch import launch
from gxl.xenstore import Message, Operation, encode

RATES = (10, 100, 1000, 5000, 0)
SECONDS = 4.0


def flood(directory: str, domid: int, rate: int) -> None:
    """Be the guest: write "eject" so many times a second, without waiting for answers; 0: as fast as it goes."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(Path(directory, "socket")))
    request = encode(Message(Operation.WRITE, 1, 0, f"/local/domain/{domid}/device/vbd/51712/eject\0eject".encode()))
    began, sent = time.monotonic(), 0
    while (passed := time.monotonic() - began) < SECONDS:
        due = int(passed * rate) - sent if rate else 50
        if due > 0:
            sock.sendall(request * due)
            sent += due
            while select_readable(sock):
                sock.recv(1 << 16)
        else:
            time.sleep(0.0005)
    print(sent, flush=True)


def select_readable(sock: socket.socket) -> bool:
    """Whether there are answers to throw away."""
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    return True


def measure(directory: str, limited: bool) -> None:
    """Be the toolstack: watch a flooded disk, and another domain."""
    import gevent

    import gxl
    from gxl import floods
    from gxl.simhost.remote import RemoteHost

    if not limited:
        floods.EJECTS_AT_ONCE = 10**9
    for rate in RATES:
        with RemoteHost(directory) as host:
            host.reset()
            guest, other = host.create_domain(), host.create_domain()
            host.add_disk(guest, "xvda")
            with gxl.Context("libxl", "gevent") as ctx:
                evgen = ctx.evenable_disk_eject(guest, "xvda")
                ctx.evenable_domain_death(other, user=1)
                child = subprocess.Popen(
                    [sys.executable, __file__, "--flood", directory, str(guest), str(rate)], stdout=subprocess.PIPE
                )
                while child.poll() is None:
                    gevent.sleep(0.05)
                # Whatever else happened is reported once libxl comes back from its call.
                host.destroy_domain(other)
                ctx.event_wait(user=1, timeout=60)
                assert child.stdout is not None
                sent = int(child.communicate()[0])
                metrics = ctx.metrics()
                print(
                    f"{'limit' if limited else 'none':>6} {rate or 'max':>6} {sent / SECONDS:>9.0f}"
                    f" {metrics.events.get(gxl.EventType.DISK_EJECT, 0):>8} {metrics.pump_longest_turn * 1000:>10.0f}"
                    f" {'yes' if evgen.flooded else 'no':>8}",
                    flush=True,
                )


def main() -> None:
    print(" limit   rate   sent/s   events  longest ms  flooded")
    for limited in (False, True):
        with launch() as (host, variables):
            subprocess.run(
                [sys.executable, __file__, "--measure", str(host.directory), "1" if limited else ""],
                env=os.environ | variables,
                check=True,
            )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--flood", directory, domid, rate]:
            flood(directory, int(domid), int(rate))
        case ["--measure", directory, limited]:
            measure(directory, bool(limited))
        case _:
            main()
