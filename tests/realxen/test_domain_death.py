# SPDX-License-Identifier: LGPL-2.1-or-later
"""How real domains end, as a Context tells it."""

from __future__ import annotations

import gevent
import pytest
from guests import Guests, run
from pace import Pace

from gxl import Context, DomainDeath, DomainShutdown, EventType, ShutdownReason, WaitTimeout, mask


def test_a_linux_guest_that_powers_off_shuts_down_and_then_dies(ctx: Context, guests: Guests, pace: Pace) -> None:
    guest = guests.linux()

    def power_off() -> None:
        guest.said("linux guest: ready")
        run("xl", "shutdown", str(guest.domid))

    with ctx.evenable_domain_death(guest.domid, user=2**64 - 1):
        gevent.spawn(power_off)
        before = pace.ticks
        shutdown = ctx.event_wait()
        assert isinstance(shutdown, DomainShutdown)
        assert shutdown.shutdown_reason is ShutdownReason.POWEROFF
        assert (shutdown.domid, shutdown.for_user) == (guest.domid, 2**64 - 1)
        assert (shutdown.name, shutdown.domuuid) == (guest.name, guest.uuid)
        assert pace.ticks - before >= 10, "the guest takes a second at least to boot"

        gevent.spawn(guest.destroy)
        death = ctx.event_wait()
        assert isinstance(death, DomainDeath)
        assert (death.domid, death.for_user) == (guest.domid, 2**64 - 1)
        assert (death.name, death.domuuid) == (guest.name, guest.uuid)
        assert ctx.event_check() is None


def test_a_guest_that_xen_kills_reports_a_crash(ctx: Context, guests: Guests) -> None:
    guest = guests.tiny()
    with ctx.evenable_domain_death(guest.domid):
        guest.order("fault")
        shutdown = ctx.event_wait(mask(EventType.DOMAIN_SHUTDOWN))
        assert isinstance(shutdown, DomainShutdown)
        assert shutdown.shutdown_reason is ShutdownReason.CRASH
        guest.destroy()
        assert isinstance(ctx.event_wait(), DomainDeath)


def test_each_reason_arrives_as_the_guest_gave_it(ctx: Context, guests: Guests) -> None:
    given = [ShutdownReason.REBOOT, ShutdownReason.SUSPEND, ShutdownReason.WATCHDOG, ShutdownReason.SOFT_RESET, 42]
    told = []
    for reason in given:
        guest = guests.tiny()
        ctx.evenable_domain_death(guest.domid)
        guest.order(f"shutdown {int(reason)}")
        event = ctx.event_wait(domid=guest.domid)
        assert isinstance(event, DomainShutdown)
        told.append(event.shutdown_reason)
    assert told == given


def test_a_guest_that_is_destroyed_while_it_runs_only_dies(ctx: Context, guests: Guests) -> None:
    guest = guests.tiny()
    with ctx.evenable_domain_death(guest.domid):
        with pytest.raises(WaitTimeout):
            ctx.event_wait(timeout=1)
        gevent.spawn(guest.destroy)
        death = ctx.event_wait()
        assert isinstance(death, DomainDeath)
        assert (death.name, death.domuuid) == (guest.name, guest.uuid)
        with pytest.raises(WaitTimeout):
            ctx.event_wait(timeout=1)


def test_a_guest_that_was_never_unpaused_dies(ctx: Context, guests: Guests) -> None:
    guest = guests.tiny(paused=True)
    with ctx.evenable_domain_death(guest.domid):
        gevent.spawn(guest.destroy)
        assert isinstance(ctx.event_wait(), DomainDeath)


def test_what_holds_already_is_reported_at_once(ctx: Context, guests: Guests) -> None:
    """libxl itself looks at the domains for the first evgen only: a second one would hear nothing."""
    other, ended, gone = guests.tiny(paused=True), guests.tiny(), guests.tiny(paused=True)
    ctx.evenable_domain_death(other.domid)
    with ctx.evenable_domain_death(ended.domid):
        ended.order("shutdown 1")
        assert isinstance(ctx.event_wait(), DomainShutdown)
    gone.destroy()

    ctx.evenable_domain_death(ended.domid, user=1)
    event = ctx.event_wait()
    assert isinstance(event, DomainShutdown)
    assert (event.shutdown_reason, event.for_user) == (ShutdownReason.REBOOT, 1)
    ctx.evenable_domain_death(gone.domid, user=2)
    event = ctx.event_wait()
    assert isinstance(event, DomainDeath)
    assert event.for_user == 2
