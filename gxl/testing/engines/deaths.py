# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for evenable_domain_death: which states are reported, when, how often, and in which order."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from gxl.errors import Fail, MisuseError
from gxl.events import DomainDeath, DomainShutdown, ShutdownReason
from gxl.testing.engines.rig import Rig, users


def a_shutdown_is_reported_with_its_reason_and_then_the_death(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 7)
    rig.host.shutdown_domain(domid, 3)
    assert rig.events() == [DomainShutdown(domid, ShutdownReason.CRASH, for_user=7)]
    rig.host.destroy_domain(domid)
    assert rig.events() == [DomainDeath(domid, for_user=7)]


def every_reason_is_reported_as_the_guest_gave_it(rig: Rig) -> None:
    for reason in (0, 1, 2, 3, 4, 5, 6, 255):
        domid = rig.domain()
        evgen = rig.engine.evenable_domain_death(domid)
        rig.host.shutdown_domain(domid, reason)
        [event] = rig.events()
        assert isinstance(event, DomainShutdown)
        assert event.shutdown_reason == reason
        assert isinstance(event.shutdown_reason, ShutdownReason) == (reason < 6)
        rig.engine.evdisable_domain_death(evgen)


def a_domain_that_is_destroyed_before_it_shuts_down_has_only_a_death(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.host.destroy_domain(domid)
    assert rig.events() == [DomainDeath(domid, for_user=1)]


def death_is_reported_when_the_domain_begins_to_die_and_not_again_when_it_is_gone(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.host.mark_dying(domid)
    assert rig.events() == [DomainDeath(domid, for_user=1)]
    rig.host.destroy_domain(domid)
    rig.host.release()
    assert rig.events() == []


def dying_hides_a_shutdown_that_nobody_has_seen_yet(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.settle()
    with rig.host.quiet():
        rig.host.shutdown_domain(domid, 3)
        rig.host.mark_dying(domid)
    assert rig.events() == [DomainDeath(domid, for_user=1)]


def pausing_and_resuming_are_no_events(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid)
    rig.host.pause_domain(domid)
    rig.host.unpause_domain(domid)
    rig.host.release()
    assert rig.events() == []


def only_the_domain_that_is_watched_is_reported(rig: Rig) -> None:
    watched, other = rig.domain(), rig.domain()
    rig.engine.evenable_domain_death(watched, 1)
    rig.host.shutdown_domain(other)
    rig.host.destroy_domain(other)
    assert rig.events() == []


def a_shutdown_is_reported_once_per_evgen_even_after_a_resume(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.host.shutdown_domain(domid, 2)
    assert users(rig.events()) == [1]
    rig.host.resume_domain(domid)
    rig.host.release()
    assert rig.events() == []
    rig.host.shutdown_domain(domid, 3)
    rig.host.release()
    assert rig.events() == []
    rig.host.destroy_domain(domid)
    assert rig.events() == [DomainDeath(domid, for_user=1)]


def a_reported_evgen_is_inert_but_still_to_be_disabled(rig: Rig) -> None:
    domid = rig.domain()
    evgen = rig.engine.evenable_domain_death(domid, 1)
    rig.host.destroy_domain(domid)
    assert len(rig.events()) == 1
    rig.domain(domid=domid)
    rig.host.shutdown_domain(domid)
    rig.host.destroy_domain(domid)
    assert rig.events() == []
    rig.engine.evdisable_domain_death(evgen)
    with pytest.raises(MisuseError):
        rig.engine.evdisable_domain_death(evgen)


def the_first_evgen_learns_the_present_state(rig: Rig) -> None:
    shut = rig.domain()
    rig.host.shutdown_domain(shut, 1)
    evgen = rig.engine.evenable_domain_death(shut, 1)
    assert rig.events() == [DomainShutdown(shut, 1, for_user=1)]
    rig.engine.evdisable_domain_death(evgen)
    # No unreported evgen is left: the next one is a first one again.
    rig.engine.evenable_domain_death(30000, 2)
    assert rig.events() == [DomainDeath(30000, for_user=2)]


def a_further_evgen_hears_nothing_until_something_happens_to_any_domain(rig: Rig) -> None:
    running, shut = rig.domain(), rig.domain()
    rig.host.shutdown_domain(shut, 1)
    rig.engine.evenable_domain_death(running, 1)
    rig.settle()
    rig.engine.evenable_domain_death(shut, 2)
    rig.engine.evenable_domain_death(30000, 3)
    assert rig.events() == []
    rig.host.release()
    assert rig.events() == [DomainShutdown(shut, 1, for_user=2), DomainDeath(30000, for_user=3)]


def an_evgen_enabled_before_the_old_one_is_disabled_does_not_see_the_suspended_state_again(rig: Rig) -> None:
    # What xl does after a suspend, so as not to hear of it twice.
    domid = rig.domain()
    old = rig.engine.evenable_domain_death(domid, 1)
    rig.host.shutdown_domain(domid, 2)
    assert users(rig.events()) == [1]
    rig.engine.evenable_domain_death(domid, 2)
    rig.engine.evdisable_domain_death(old)
    rig.host.resume_domain(domid)
    assert rig.events() == []
    rig.host.shutdown_domain(domid, 3)
    assert rig.events() == [DomainShutdown(domid, 3, for_user=2)]


def spurious_firings_are_harmless(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.host.shutdown_domain(domid)
    for _ in range(3):
        rig.host.release()
    assert len(rig.events()) == 1


def several_evgens_on_one_domain_each_report_the_newest_first(rig: Rig) -> None:
    domid = rig.domain()
    for user in (1, 2, 3):
        rig.engine.evenable_domain_death(domid, user)
    rig.host.shutdown_domain(domid)
    assert users(rig.events()) == [3, 2, 1]
    rig.host.destroy_domain(domid)
    assert rig.events() == [DomainDeath(domid, for_user=user) for user in (3, 2, 1)]


def what_one_look_finds_is_reported_in_ascending_order_of_domids(rig: Rig) -> None:
    domids = [rig.domain(domid=domid) for domid in (300, 100, 200)]
    for user, domid in enumerate(domids, 1):
        rig.engine.evenable_domain_death(domid, user)
    rig.settle()
    with rig.host.quiet():
        rig.host.destroy_domain(300)
        rig.host.shutdown_domain(200)
        rig.host.destroy_domain(100)
    assert rig.events() == [
        DomainDeath(100, for_user=2),
        DomainShutdown(200, 0, for_user=3),
        DomainDeath(300, for_user=1),
    ]


def a_domid_that_is_reused_before_anybody_looks_hides_the_death(rig: Rig) -> None:
    # libxl knows domains by their domids alone. A Context knows better.
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.settle()
    with rig.host.quiet():
        rig.host.destroy_domain(domid)
        rig.domain(domid=domid)
    assert rig.events() == []
    rig.host.destroy_domain(domid)
    assert rig.events() == [DomainDeath(domid, for_user=1)]


def any_domid_is_accepted(rig: Rig) -> None:
    for domid in (0, 2**32 - 1, 12345):
        evgen = rig.engine.evenable_domain_death(domid)
        assert (evgen.domid, evgen.user) == (domid, 0)
        rig.engine.evdisable_domain_death(evgen)
    rig.events()


def dom0_lives(rig: Rig) -> None:
    rig.engine.evenable_domain_death(0)
    rig.host.release()
    assert rig.events() == []


def events_from_before_a_disable_are_still_returned_and_none_after_it_are(rig: Rig) -> None:
    first, second = rig.domain(), rig.domain()
    one = rig.engine.evenable_domain_death(first, 1)
    two = rig.engine.evenable_domain_death(second, 2)
    rig.host.destroy_domain(first)
    rig.settle()
    rig.engine.evdisable_domain_death(one)
    rig.engine.evdisable_domain_death(two)
    rig.host.destroy_domain(second)
    assert users(rig.events()) == [1]


def disabling_in_the_middle_of_many_leaves_the_others(rig: Rig) -> None:
    domids = [rig.domain() for _ in range(9)]
    evgens = [rig.engine.evenable_domain_death(domid, user) for user, domid in enumerate(domids)]
    for user in (0, 4, 8):
        rig.engine.evdisable_domain_death(evgens[user])
    with rig.host.quiet():
        for domid in domids:
            rig.host.destroy_domain(domid)
    assert users(rig.events()) == [1, 2, 3, 5, 6, 7]


def more_domains_than_one_hypercall_tells_of_are_all_looked_at(rig: Rig) -> None:
    domids = [rig.domain() for _ in range(250)]
    for user, domid in enumerate(domids):
        rig.engine.evenable_domain_death(domid, user)
    with rig.host.quiet():
        for domid in domids[::2]:
            rig.host.destroy_domain(domid)
    assert users(rig.events()) == list(range(0, 250, 2))


def a_store_that_refuses_to_watch_fails_the_call_and_changes_nothing(rig: Rig) -> None:
    domid = rig.domain()
    rig.host.fail_next("WATCH", errno.EIO)
    with pytest.raises(Fail):
        rig.engine.evenable_domain_death(domid, 1)
    rig.host.destroy_domain(domid)
    assert rig.events() == []
    rig.engine.evenable_domain_death(domid, 2)
    assert rig.events() == [DomainDeath(domid, for_user=2)]


def engines_on_one_host_each_report_to_their_own_users(rig: Rig) -> None:
    other = rig.another()
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    other.engine.evenable_domain_death(domid, 2)
    rig.host.destroy_domain(domid)
    assert users(rig.events()) == [1]
    assert users(other.events()) == [2]


def malformed_arguments_and_foreign_handles_are_refused(rig: Rig) -> None:
    malformed: list[tuple[type[Exception], tuple[Any, ...]]] = [
        (TypeError, ("1",)),
        (TypeError, (True,)),
        (ValueError, (-1,)),
        (ValueError, (2**32,)),
        (ValueError, (1, 2**64)),
        (ValueError, (1, -1)),
        (TypeError, (1, None)),
    ]
    for error, arguments in malformed:
        with pytest.raises(error):
            rig.engine.evenable_domain_death(*arguments)
    evgen = rig.engine.evenable_domain_death(1)
    with pytest.raises(MisuseError):
        rig.another().engine.evdisable_domain_death(evgen)
    with pytest.raises(TypeError):
        rig.engine.evdisable_domain_death(object())
    rig.engine.evdisable_domain_death(evgen)
