# SPDX-License-Identifier: LGPL-2.1-or-later
"""Somebody's program, as mypy sees it. Where a line ends in `# wrong: CODE`, it must find that, and nothing else."""

from uuid import UUID

import gxl


def first_crash(ctx: gxl.Context) -> str | None:
    for event in ctx.watch("web1", UUID(int=1), 7, types=gxl.DomainShutdown, timeout=60):
        match event:
            case gxl.DomainShutdown(shutdown_reason=gxl.ShutdownReason.CRASH):
                return event.name
            case gxl.EventsLost(count=count):
                print(count + 1)
    return None


def numbers(event: gxl.Event) -> tuple[int, int, float | None, UUID | None]:
    return event.domid, event.for_user, event.time, event.domuuid


async def awaited() -> gxl.Event:
    async with gxl.Context(hub="asyncio") as ctx:
        with ctx.expect((gxl.DomainDeath, gxl.DomainShutdown), 7) as end:
            return await end


def simulated(host: gxl.SimHost) -> int:
    return host.create_domain("web1", memory_kb=1024)


with gxl.Context(hub="gevent") as opened:
    destroyed: gxl.Operation = opened.domain_destroy("web1", wait=False)
    destroyed.wait(timeout=5.0)
    opened.event_wait(timeout="5")  # wrong: arg-type
    opened.event_wait(domain=7)  # wrong: call-arg
    opened.domain_destory(7)  # wrong: attr-defined
    opened.watch(timeout=[1])  # wrong: arg-type
    late: str = opened.event_wait()  # wrong: assignment
    opened.wait_shutdown(7.5)  # wrong: arg-type
    gxl.SimHost().shutdown_domain("web1")  # wrong: arg-type
