# SPDX-License-Identifier: LGPL-2.1-or-later
"""The soak's own eyes: that its ledger sees what must not happen, and that a round that fails is told of."""

from __future__ import annotations

import pytest
from worlds import until

import gxl
from gxl import DomainDeath, DomainShutdown, Event
from gxl.engines.embedded import EmbeddedEngine
from gxl.simhost import SimHost
from soak import __main__ as command
from soak.ledger import Ledger


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        ([DomainShutdown(1, 0, for_user=1), DomainDeath(1, for_user=1)], ""),
        ([DomainDeath(1, for_user=1), DomainDeath(1, for_user=1)], "after the death"),
        ([DomainShutdown(1, 0, for_user=1), DomainShutdown(1, 0, for_user=1)], "second shutdown"),
        ([DomainDeath(1, for_user=1), DomainShutdown(1, 0, for_user=1)], "after the death"),
        ([DomainDeath(2, for_user=1)], "domain 1's evgen"),
        ([DomainDeath(1, for_user=9)], "nobody asked"),
    ],
)
def test_the_ledger_sees_what_must_not_happen(events: list[Event], wrong: str) -> None:
    ledger = Ledger()
    assert ledger.open(1, "death") == 1
    assert ledger.undead() == [1]
    for event in events:
        ledger.take(event)
    assert [wrong in said for said in ledger.wrong] == ([True] if wrong else [])


def test_a_round_that_fails_is_told_of_with_the_command_that_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--rounds", "1", "--engine", "embedded", "--seed", "5", "--steps", "5"]) == 0
    assert "ok     embedded" in capsys.readouterr().out
    assert not command._round("embedded", "no-such-loop", 5, 5)
    said = capsys.readouterr().out
    assert "FAILED" in said
    assert "--engine embedded --loop no-such-loop --seed 5 --steps 5" in said


def test_an_evgen_that_is_enabled_when_the_loss_of_the_engine_is_about_to_be_noticed_waits_for_the_next() -> None:
    with SimHost() as host, gxl.Context(lambda: EmbeddedEngine(host), "gevent", recover=True) as ctx:
        first, second = host.create_domain(), host.create_domain()
        before = ctx.evenable_domain_death(first)
        host.drop_connections()
        before.disable()  # finds the connection lost, which is told once this call is over
        ctx.evenable_domain_death(second, user=2)
        until(lambda: ctx.metrics().recoveries == 1 and ctx.outage is None)
        host.destroy_domain(second)
        assert isinstance(ctx.event_wait(user=2, timeout=10), DomainDeath)
