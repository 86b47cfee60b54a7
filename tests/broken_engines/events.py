# SPDX-License-Identifier: LGPL-2.1-or-later
"""Engines that are wrong about events, callbacks, deaths and ejects."""

from __future__ import annotations

import re
import select
from collections.abc import Callable
from typing import Any

from broken_engines import Patch, fails, parts
from gxl.engines.embedded import EmbeddedEngine, core, deaths, ejects
from gxl.events import EVENTMASK_ALL, DomainDeath, DomainShutdown, Event

# Events


@fails("queue.events_are_returned_oldest_first_and_once")
def each_event_comes_twice(engine: EmbeddedEngine, patch: Patch) -> None:
    occurred = parts(engine).core.occurred
    patch.setattr(parts(engine).core, "occurred", lambda event: (occurred(event), occurred(event)))


@fails("deaths.more_domains_than_one_hypercall_tells_of_are_all_looked_at")
def every_hundredth_event_is_lost(engine: EmbeddedEngine, patch: Patch) -> None:
    ctx, count = parts(engine), iter(range(1, 1 << 30))
    occurred = ctx.core.occurred
    patch.setattr(ctx.core, "occurred", lambda event: occurred(event) if next(count) % 100 else None)


@fails("queue.events_are_returned_oldest_first_and_once")
def the_newest_event_comes_first(engine: EmbeddedEngine, patch: Patch) -> None:
    queue, seq = parts(engine).core.queue, iter(range(1 << 30, 0, -1))
    put = queue.put
    patch.setattr(queue, "put", lambda _, event: put(next(seq), event))


@fails("queue.a_mask_lets_only_its_types_through")
def the_mask_is_ignored(engine: EmbeddedEngine, patch: Patch) -> None:
    queue = parts(engine).core.queue
    take = queue.take
    patch.setattr(queue, "take", lambda typemask, predicate=None: take(EVENTMASK_ALL, predicate))


@fails("queue.mask_0_matches_nothing")
def mask_0_matches_everything(engine: EmbeddedEngine, patch: Patch) -> None:
    queue = parts(engine).core.queue
    take = queue.take
    patch.setattr(queue, "take", lambda typemask, predicate=None: take(typemask or EVENTMASK_ALL, predicate))


@fails("queue.a_predicate_sees_what_passes_the_mask_in_order_and_once_each")
def the_predicate_sees_masked_events_too(engine: EmbeddedEngine, patch: Patch) -> None:
    queue = parts(engine).core.queue
    take = queue.take

    def spoilt(typemask: int, predicate: Callable[[Event], object]) -> object:
        return take(EVENTMASK_ALL, lambda event: predicate(event) and typemask >> event.type & 1)

    patch.setattr(queue, "take", spoilt)


@fails("queue.any_true_value_of_a_predicate_accepts")
def only_true_itself_accepts(engine: EmbeddedEngine, patch: Patch) -> None:
    queue = parts(engine).core.queue
    take = queue.take

    def spoilt(typemask: int, predicate: Any = None) -> object:
        return take(typemask, predicate and (lambda event: predicate(event) is True))

    patch.setattr(queue, "take", spoilt)


@fails("queue.a_predicate_that_raises_leaves_the_queue_as_it_was")
def a_predicate_that_raises_costs_the_event(engine: EmbeddedEngine, patch: Patch) -> None:
    queue = parts(engine).core.queue
    take = queue.take

    def spoilt(typemask: int, predicate: Any = None) -> object:
        try:
            return take(typemask, predicate)
        except ZeroDivisionError:
            take(typemask)
            raise

    patch.setattr(queue, "take", spoilt)


@fails("queue.a_predicate_chooses_and_what_it_passes_over_stays_in_order")
def what_a_predicate_passes_over_goes_to_the_end(engine: EmbeddedEngine, patch: Patch) -> None:
    queue, seq = parts(engine).core.queue, iter(range(1 << 20, 1 << 30))
    take = queue.take

    def spoilt(typemask: int, predicate: Any = None) -> object:
        passed_over = []
        while (event := take(typemask)) is not None and predicate is not None and not predicate(event):
            passed_over.append(event)
        for other in passed_over:
            queue.put(next(seq), other)
        return event

    patch.setattr(queue, "take", spoilt)


@fails("queue.checking_does_no_input")
def checking_pumps(engine: EmbeddedEngine, patch: Patch) -> None:
    queue, store = parts(engine).core.queue, parts(engine).store
    take = queue.take

    def spoilt(typemask: int, predicate: Any = None) -> object:
        if parts(engine).deaths:
            store._ready(select.POLLIN)
        return take(typemask, predicate)

    patch.setattr(queue, "take", spoilt)


@fails("queue.the_user_value_has_all_its_64_bits")
def user_values_lose_their_upper_half(engine: EmbeddedEngine, patch: Patch) -> None:
    enable = parts(engine).deaths.enable
    patch.setattr(parts(engine).deaths, "enable", lambda domid, user: enable(domid, user & 0xFFFFFFFF))


@fails("queue.the_user_value_has_all_its_64_bits")
def user_values_become_signed(engine: EmbeddedEngine, patch: Patch) -> None:
    enable = parts(engine).deaths.enable
    patch.setattr(parts(engine).deaths, "enable", lambda domid, user: enable(domid, user - (user >> 63 << 64)))


@fails("queue.a_waiting_thread_is_woken_by_an_event_that_another_threads_call_queued")
def a_queued_event_wakes_no_waiter(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(parts(engine).core.osevents, "wake_waiting", lambda: None)


@fails("queue.a_waiting_thread_sees_to_an_evgen_that_another_threads_call_enabled")
def a_new_fd_wakes_no_waiter(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(parts(engine).core.osevents, "wake_outdated", lambda: None)


@fails("queue.malformed_arguments_are_refused_before_anything_happens")
def masks_are_not_looked_at(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr("gxl.arguments.check_typemask", lambda typemask: typemask)


# Callbacks and disasters


@fails("callbacks.events_in_the_mask_go_to_the_callback_and_the_others_to_the_queue")
def every_event_goes_to_the_callback(engine: EmbeddedEngine, patch: Patch) -> None:
    register = engine.event_register_callbacks

    def spoilt(hooks: Any) -> None:
        hooks.event_occurs_mask = EVENTMASK_ALL
        register(hooks)

    patch.setattr(engine, "event_register_callbacks", spoilt)


@fails("callbacks.callbacks_have_returned_when_the_call_that_found_the_events_returns")
def callbacks_come_with_the_next_call(engine: EmbeddedEngine, patch: Patch) -> None:
    late: list[Event] = []
    leave = core.Entry.__exit__

    def spoilt(entry: core.Entry, *exc: Any) -> None:
        due, late[:] = late[:], list(entry.events)
        entry.events.clear()
        entry.events.extend(due)
        leave(entry, *exc)

    patch.setattr(core.Entry, "__exit__", spoilt)


@fails("callbacks.a_callback_may_call_the_engine")
def callbacks_run_under_the_lock(engine: EmbeddedEngine, patch: Patch) -> None:
    ctx = parts(engine).core
    patch.setattr(ctx, "occurred", lambda event: ctx.event_hooks.event_occurs(event))


@fails("callbacks.what_a_callback_raises_is_raised_by_the_call_and_stops_no_other_callback")
def what_a_callback_raises_is_swallowed(engine: EmbeddedEngine, patch: Patch) -> None:
    tell = core.Entry._tell

    def spoilt(entry: core.Entry, callback: Any, argument: object) -> None:
        tell(entry, callback, argument)
        entry.errors.clear()

    patch.setattr(core.Entry, "_tell", spoilt)


@fails("callbacks.what_a_callback_raises_is_raised_by_the_call_and_stops_no_other_callback")
def what_a_callback_raises_stops_the_others(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(core.Entry, "_tell", lambda entry, callback, argument: callback(argument))


@fails("callbacks.events_come_before_the_ends_of_operations")
def operations_end_before_events_are_told(engine: EmbeddedEngine, patch: Patch) -> None:
    ctx = parts(engine).core

    def spoilt(callback: Any, rc: int) -> None:
        callback(rc)

    patch.setattr(ctx, "completed", spoilt)


@fails("callbacks.callbacks_cannot_be_registered_while_evgens_are_enabled")
def callbacks_may_be_changed_at_any_time(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(type(parts(engine)), "evgens", False)


@fails("callbacks.a_failure_that_may_have_lost_events_is_a_disaster")
def a_failed_hypercall_is_passed_over(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(parts(engine).core, "disaster", lambda *args, **how: None)


@fails("callbacks.after_a_disaster_that_libxl_cannot_carry_on_from_every_call_raises_it")
def disasters_are_forgotten(engine: EmbeddedEngine, patch: Patch) -> None:
    disaster = parts(engine).core.disaster
    patch.setattr(parts(engine).core, "disaster", lambda *args, **how: disaster(*args, **how | {"fatal": False}))


@fails("callbacks.a_disaster_of_one_type_leaves_the_rest_working")
def every_disaster_is_the_end(engine: EmbeddedEngine, patch: Patch) -> None:
    disaster = parts(engine).core.disaster
    patch.setattr(parts(engine).core, "disaster", lambda *args, **how: disaster(*args, **how | {"fatal": True}))


# Deaths


def spoil_report(patch: Patch, report: Callable[[Any, Any, Any], None]) -> None:
    patch.setattr(deaths.Deaths, "_report", report)


@fails("deaths.death_is_reported_when_the_domain_begins_to_die_and_not_again_when_it_is_gone")
def dying_is_not_death(engine: EmbeddedEngine, patch: Patch) -> None:
    report = deaths.Deaths._report
    spoil_report(patch, lambda self, evgen, info: report(self, evgen, info and info._replace(dying=False)))


@fails("deaths.dying_hides_a_shutdown_that_nobody_has_seen_yet")
def a_shutdown_is_reported_before_a_death(engine: EmbeddedEngine, patch: Patch) -> None:
    report = deaths.Deaths._report

    def spoilt(self: Any, evgen: Any, info: Any) -> None:
        if info is not None:
            report(self, evgen, info._replace(dying=False))
        report(self, evgen, info)

    spoil_report(patch, spoilt)


@fails("deaths.a_shutdown_is_reported_once_per_evgen_even_after_a_resume")
def a_resume_makes_a_second_shutdown_possible(engine: EmbeddedEngine, patch: Patch) -> None:
    report = deaths.Deaths._report

    def spoilt(self: Any, evgen: Any, info: Any) -> None:
        if info is not None and not info.shutdown:
            evgen.shutdown_reported = False
        report(self, evgen, info)

    spoil_report(patch, spoilt)


@fails("deaths.spurious_firings_are_harmless")
def every_look_reports_the_shutdown(engine: EmbeddedEngine, patch: Patch) -> None:
    report = deaths.Deaths._report

    def spoilt(self: Any, evgen: Any, info: Any) -> None:
        evgen.shutdown_reported = False
        report(self, evgen, info)

    spoil_report(patch, spoilt)
    # It looks at everything, too.
    patch.setattr(parts(engine).host, "changes_since", lambda serial: (0, list(parts(engine).deaths._waiting)))


@fails("deaths.every_reason_is_reported_as_the_guest_gave_it")
def reasons_without_a_name_become_crashes(engine: EmbeddedEngine, patch: Patch) -> None:
    occurred = parts(engine).core.occurred

    def spoilt(event: Event) -> None:
        if isinstance(event, DomainShutdown) and event.shutdown_reason > 5:
            event = DomainShutdown(event.domid, 3, for_user=event.for_user)
        occurred(event)

    patch.setattr(parts(engine).core, "occurred", spoilt)


@fails("deaths.several_evgens_on_one_domain_each_report_the_newest_first")
def the_oldest_evgen_reports_first(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(deaths, "reversed", lambda evgens: evgens, raising=False)


@fails("deaths.several_evgens_on_one_domain_each_report_the_newest_first")
def one_evgen_per_domain_reports(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(deaths, "reversed", lambda evgens: list(evgens)[-1:], raising=False)


@fails("deaths.what_one_look_finds_is_reported_in_ascending_order_of_domids")
def what_one_look_finds_comes_in_the_order_of_the_changes(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(deaths, "sorted", lambda domids: sorted(domids, reverse=True), raising=False)


@fails("deaths.a_further_evgen_hears_nothing_until_something_happens_to_any_domain")
def every_new_evgen_looks_at_once(engine: EmbeddedEngine, patch: Patch) -> None:
    enable = engine.evenable_domain_death

    def spoilt(domid: int, user: int = 0) -> object:
        evgen = enable(domid, user)
        engine.host.release()
        return evgen

    patch.setattr(engine, "evenable_domain_death", spoilt)


@fails("deaths.a_further_evgen_hears_nothing_until_something_happens_to_any_domain")
def a_new_evgen_is_not_looked_at_unless_its_domain_changes(engine: EmbeddedEngine, patch: Patch) -> None:
    enable = deaths.Deaths.enable

    def spoilt(self: Any, domid: int, user: int) -> object:
        first = self._watch is None
        evgen = enable(self, domid, user)
        if not first:
            self._new.discard(domid)
        return evgen

    patch.setattr(deaths.Deaths, "enable", spoilt)


@fails("deaths.the_first_evgen_learns_the_present_state")
def the_present_state_is_not_looked_at(engine: EmbeddedEngine, patch: Patch) -> None:
    a_look = deaths.Deaths._look

    def spoilt(self: Any) -> None:
        self._new.clear()
        a_look(self)

    patch.setattr(deaths.Deaths, "_look", spoilt)


@fails("deaths.a_domid_that_is_reused_before_anybody_looks_hides_the_death")
def domains_are_known_by_more_than_their_domids(engine: EmbeddedEngine, patch: Patch) -> None:
    enable, report = deaths.Deaths.enable, deaths.Deaths._report
    lives: dict[Any, Any] = {}

    def noted(self: Any, domid: int, user: int) -> object:
        evgen = enable(self, domid, user)
        lives[evgen] = self._state(domid)
        return evgen

    def spoilt(self: Any, evgen: Any, info: Any) -> None:
        known = lives[evgen]
        report(self, evgen, None if known is None or info is None or info.uuid != known.uuid else info)

    patch.setattr(deaths.Deaths, "enable", noted)
    spoil_report(patch, spoilt)


@fails("deaths.events_from_before_a_disable_are_still_returned_and_none_after_it_are")
def disabling_takes_back_events(engine: EmbeddedEngine, patch: Patch) -> None:
    disable = engine.evdisable_domain_death

    def spoilt(evgen: Any) -> None:
        disable(evgen)
        while parts(engine).core.queue.take(domid=evgen.domid):
            pass

    patch.setattr(engine, "evdisable_domain_death", spoilt)


@fails("deaths.events_from_before_a_disable_are_still_returned_and_none_after_it_are")
def disabling_does_nothing(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(engine, "evdisable_domain_death", lambda evgen: None)


@fails("deaths.disabling_in_the_middle_of_many_leaves_the_others")
def disabling_one_disables_its_neighbour(engine: EmbeddedEngine, patch: Patch) -> None:
    disable = engine.evdisable_domain_death

    def spoilt(evgen: Any) -> None:
        disable(evgen)
        for other in list(parts(engine).deaths._waiting.get(evgen.domid + 1, ())):
            disable(other)

    patch.setattr(engine, "evdisable_domain_death", spoilt)


@fails("deaths.only_the_domain_that_is_watched_is_reported")
def other_domains_are_reported_too(engine: EmbeddedEngine, patch: Patch) -> None:
    occurred, look = parts(engine).core.occurred, deaths.Deaths._look

    def spoilt(self: Any) -> None:
        _, changed = self._host.changes_since(self._seen)
        for domid in changed:
            if domid not in self._waiting and self._state(domid) is None:
                occurred(DomainDeath(domid))
        look(self)

    patch.setattr(deaths.Deaths, "_look", spoilt)


# Ejects


@fails("ejects.the_request_is_acknowledged_so_that_the_guest_can_make_another")
def ejects_are_not_acknowledged(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(parts(engine).store, "write", lambda path, value: None)


@fails("ejects.several_evgens_on_one_disk")
def one_evgen_takes_the_eject_from_the_others(engine: EmbeddedEngine, patch: Patch) -> None:
    occurred = parts(engine).core.occurred
    seen: list[int] = []

    def spoilt(event: Event) -> None:
        if event.domid not in seen:
            seen.append(event.domid)
            occurred(event)

    patch.setattr(parts(engine).core, "occurred", spoilt)


@fails("ejects.only_the_word_eject_is_a_request")
def anything_that_begins_with_eject_is_a_request(engine: EmbeddedEngine, patch: Patch) -> None:
    read = parts(engine).store.read

    def spoilt(path: bytes) -> bytes | None:
        value: bytes | None = read(path)
        return b"eject" if value is not None and value.startswith(b"eject") else value

    patch.setattr(parts(engine).store, "read", spoilt)


@fails("ejects.with_a_stub_domain_its_disk_is_watched_and_the_guest_is_named")
def stub_domains_are_unknown(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(parts(engine).store, "stub_domain", lambda domid: 0)


@fails("ejects.a_device_that_is_gone_is_not_reported_as_ejected")
def a_device_that_is_gone_is_ejected(engine: EmbeddedEngine, patch: Patch) -> None:
    read = parts(engine).store.read
    patch.setattr(parts(engine).store, "read", lambda path: read(path) or (b"" if path.endswith(b"backend") else None))


@fails("ejects.the_kind_of_backend_is_reported")
def vbd3_is_unknown(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(ejects, "_BACKEND", re.compile(rb"/local/domain/(\d+)/backend/([a-z0-9]+)"))


@fails("ejects.every_way_to_name_a_disk_finds_it")
def only_xvd_disks_are_found(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(ejects, "devid", lambda vdev: 51712 + 16 * (ord(vdev[3:4] or "a") - ord("a")))


@fails("ejects.the_event_names_the_disk")
def the_guests_name_for_the_disk_is_taken(engine: EmbeddedEngine, patch: Patch) -> None:
    enable = parts(engine).ejects.enable
    patch.setattr(parts(engine).ejects, "enable", lambda domid, vdev, user: enable(domid, "xvda", user))
