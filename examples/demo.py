# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains live and die on a simulated Xen host; one greenlet prints what happens to them while another one ticks.

On a real host main() begins with `with gxl.Context(hub="gevent") as ctx:`, and the domains are there already.
"""

import random
import sys

import gevent

import gxl
from gxl.engines.embedded import EmbeddedEngine


def live_and_die(host: gxl.SimHost, name: str) -> None:
    """One domain's life, with whatever end fate has for it."""
    gevent.sleep(random.uniform(0, 1.5))
    domid = host.create_domain(name)
    gevent.sleep(random.uniform(0.2, 1.0))
    if random.random() < 0.8:
        host.shutdown_domain(domid, random.choice(list(gxl.ShutdownReason)[:4]))
        gevent.sleep(random.uniform(0.1, 0.5))
    host.destroy_domain(domid)


def tick() -> None:
    """Prove that nobody blocks the hub: a line each half second, whatever else happens."""
    for ticks in range(sys.maxsize):
        print(f"      tick {ticks}", flush=True)
        gevent.sleep(0.5)


def show(ctx: gxl.Context, deaths: int) -> None:
    """Print events until so many domains have died. Only this greenlet waits."""
    with ctx.follow_domains():
        while deaths:
            event = ctx.event_wait()
            match event:
                case gxl.DomainShutdown(domid, reason):
                    print(f"{event.name} (domain {domid}) has shut down: {reason!r}", flush=True)
                case gxl.DomainDeath(domid):
                    print(f"{event.name} (domain {domid}) is gone", flush=True)
                    deaths -= 1


def main() -> None:
    with gxl.SimHost() as host, gxl.Context(engine=EmbeddedEngine(host), hub="gevent") as ctx:
        names = [f"web{number}" for number in range(1, 9)]
        ticker = gevent.spawn(tick)
        shower = gevent.spawn(show, ctx, len(names))
        for name in names:
            gevent.spawn(live_and_die, host, name)
        shower.get()
        ticker.kill()


if __name__ == "__main__":
    main()
