# SPDX-License-Identifier: LGPL-2.1-or-later
"""A long random history, in which xenstored dies at every step, held against a model of what must be reported."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import gevent
import pytest
from leaks import held
from outages import back, soon, turn
from worlds import World

import gxl
from gxl import DiskEject, DomainDeath, DomainShutdown, Resynced

HUBS = ("gevent", "poll")
pytestmark = pytest.mark.usefixtures(soon.__name__)
STEPS = int(os.environ.get("GXL_RECOVERY_STEPS", "40"))
SEED = os.environ.get("GXL_RECOVERY_SEED")


@dataclass
class Life:
    """A domain, as the model has it, and what was reported of it."""

    domid: int
    state: str = "running"
    seen_down: bool = False
    """Whether it was down at a moment at which the Context could see it."""
    reported: list[str] = field(default_factory=list)


class History:
    """What happens on the host, and to its xenstored."""

    def __init__(self, world: World, seed: int) -> None:
        self.random = random.Random(seed)
        self.host = world.host
        self.world = world
        self.ctx = world.open(recover=True)
        self.lives: dict[int, Life] = {}
        self.before = 0
        self.ejects = 0
        self.ejected = 0
        self.users = 0
        self.disk = self.host.create_domain()
        self.host.add_disk(self.disk, "xvdc")
        self.ctx.evenable_disk_eject(self.disk, "xvdc", user=2**40)

    def step(self) -> None:
        """One thing happens."""
        actions = [self.create, self.create, self.shut_down, self.destroy, self.reuse, self.eject]
        self.random.choice(actions)()

    def some(self, *states: str) -> Life | None:
        candidates = [life for life in self.lives.values() if life.state in states]
        return self.random.choice(candidates) if candidates else None

    def create(self, domid: int | None = None) -> None:
        self.users += 1
        life = self.lives[self.users] = Life(self.host.create_domain(domid=domid))
        self.ctx.evenable_domain_death(life.domid, user=self.users)

    def shut_down(self) -> None:
        if life := self.some("running"):
            self.host.shutdown_domain(life.domid, self.random.randrange(6))
            life.state = "down"

    def destroy(self) -> None:
        if life := self.some("running", "down"):
            self.host.destroy_domain(life.domid)
            life.state = "dead"

    def reuse(self) -> None:
        """Another life takes the domid, which only comparing lives can tell."""
        if (life := self.some("running", "down")) and self.ctx.outage is None:
            # Enabled before an outage is over, an evgen watches whom it finds then.
            self.host.destroy_domain(life.domid)
            life.state = "dead"
            self.create(life.domid)

    def eject(self) -> None:
        if self.ejects == self.ejected:  # else the guest asks for what it has asked for already
            self.host.eject_disk(self.disk, "xvdc")
            self.ejects += 1

    def heard(self) -> list[gxl.Event]:
        while True:
            try:
                return self.world.drained(self.ctx)
            except gxl.Outage:
                back(self.ctx)  # from a second death, noticed only now

    def look(self) -> None:
        """All that was to be heard is heard; take and judge it."""
        for event in self.heard():
            if isinstance(event, DiskEject):
                self.ejected += 1
            elif isinstance(event, (DomainShutdown, DomainDeath)):
                life = self.lives[event.for_user]
                assert event.domid == life.domid
                life.reported.append("down" if isinstance(event, DomainShutdown) else "dead")
            else:
                assert isinstance(event, Resynced)
        for user, life in self.lives.items():
            assert life.reported in (["down"], ["dead"], ["down", "dead"], []), (user, life)
            if life.state == "running":
                assert life.reported == [], (user, life)
            elif life.state == "down":
                assert life.reported == ["down"], (user, life)
            else:
                assert life.reported[-1:] == ["dead"], (user, life)
                assert life.reported[:1] == ["down"] or not life.seen_down, (user, life)
            life.seen_down = life.state == "down"
        assert self.ejected == self.ejects

    @contextmanager
    def outage(self) -> Iterator[None]:
        """xenstored is gone, for a while or only for a moment."""
        self.before = self.ctx.metrics().recoveries
        if self.random.random() < 0.5:
            with self.host.down():
                yield
        else:
            self.host.drop_connections()
            yield

    def recovered(self) -> bool:
        return self.ctx.metrics().recoveries > self.before


def test_whatever_happens_is_reported_once_though_xenstored_dies_at_every_step(world: World) -> None:
    seed = int(SEED) if SEED else random.randrange(2**32)
    print(f"GXL_RECOVERY_SEED={seed}")
    gevent.sleep(0)
    before = held()
    history = History(world, seed)
    ctx = history.ctx
    for _ in range(STEPS):
        if history.random.random() < 0.5:
            history.step()
        with history.outage():
            for _ in range(history.random.randrange(4)):
                history.step()
                if history.random.random() < 0.5:
                    # Let it be noticed at any moment; or fail once more on the way back.
                    turn(ctx, lambda: ctx.outage is not None or history.recovered())
        if history.random.random() < 0.3:
            world.host.drop_connections()
        turn(ctx, history.recovered)
        back(ctx)
        history.look()
    metrics = ctx.metrics()
    assert metrics.recoveries >= STEPS
    assert metrics.abandoned == 0
    assert metrics.timeouts <= 1
    assert metrics.evgens == 1 + sum(life.state != "dead" for life in history.lives.values())
    ctx.close()
    gevent.sleep(0.01)  # in a patched process the hub closes fds a little later
    assert {what: name for what, name in held().items() if before.get(what) != name} == {}
