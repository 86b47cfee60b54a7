# SPDX-License-Identifier: LGPL-2.1-or-later
"""Engines that are wrong about event loops, operations, children and their own lives."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from broken_engines import Patch, fails, parts
from gxl.engines.embedded import EmbeddedEngine, children, core, operations, osevents
from gxl.errors import OSEventRegFail
from gxl.events import DomainDeath, Event
from gxl.interfaces import AsyncHow

# Polling


@fails("polling.there_is_always_something_to_poll_that_can_wake_the_poll")
def there_is_nothing_to_wake_a_poll(engine: EmbeddedEngine, patch: Patch) -> None:
    before = engine.osevent_beforepoll

    def spoilt(now: float | None = None) -> Any:
        fds, timeout_ms = before(now)
        return fds[:-1], timeout_ms

    patch.setattr(engine, "osevent_beforepoll", spoilt)


@fails("polling.the_timeout_is_the_earliest_deadline_rounded_up")
def timeouts_are_rounded_to_the_nearest_millisecond(engine: EmbeddedEngine, patch: Patch) -> None:
    before = engine.osevent_beforepoll

    def spoilt(now: float | None = None) -> Any:
        # Rounding up what half a millisecond later remains is rounding to the nearest.
        return before(None if now is None else now + 0.0005)

    patch.setattr(engine, "osevent_beforepoll", spoilt)


@fails("polling.the_timeout_is_the_earliest_deadline_rounded_up")
def a_timeout_is_due_only_after_its_moment(engine: EmbeddedEngine, patch: Patch) -> None:
    after = engine.osevent_afterpoll
    patch.setattr(engine, "osevent_afterpoll", lambda fds, now=None: after(fds, None if now is None else now - 1e-6))


@fails("polling.what_is_due_by_the_callers_clock_happens")
def the_callers_clock_is_ignored(engine: EmbeddedEngine, patch: Patch) -> None:
    after = engine.osevent_afterpoll
    patch.setattr(engine, "osevent_afterpoll", lambda fds, now=None: after(fds))


@fails("polling.readiness_is_honoured_once")
def readiness_is_honoured_again(engine: EmbeddedEngine, patch: Patch) -> None:
    after = engine.osevent_afterpoll

    def spoilt(fds: Any, now: float | None = None) -> None:
        engine.osevent_beforepoll()
        after(fds, now)

    patch.setattr(engine, "osevent_afterpoll", spoilt)


@fails("polling.fds_that_are_not_reported_are_left_alone")
def every_fd_is_looked_at(engine: EmbeddedEngine, patch: Patch) -> None:
    after = engine.osevent_afterpoll

    def spoilt(fds: Any, now: float | None = None) -> None:
        after([(fd, events, events) for fd, events in engine.osevent_beforepoll()[0]], now)

    patch.setattr(engine, "osevent_afterpoll", spoilt)


@fails("polling.a_new_operation_wakes_the_poll_that_is_under_way")
def a_poll_is_never_woken(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(osevents.Poller, "wake", lambda self: None)


@fails("polling.a_queued_event_does_not_wake_the_poll")
def a_queued_event_wakes_the_poll(engine: EmbeddedEngine, patch: Patch) -> None:
    occurred = parts(engine).core.occurred

    def spoilt(event: Event) -> None:
        occurred(event)
        parts(engine).core.osevents.app_poller.wake()

    patch.setattr(parts(engine).core, "occurred", spoilt)


@fails("polling.all_evgens_share_one_fd")
def every_fd_is_listed_twice(engine: EmbeddedEngine, patch: Patch) -> None:
    before = engine.osevent_beforepoll

    def spoilt(now: float | None = None) -> Any:
        fds, timeout_ms = before(now)
        return fds * 2, timeout_ms

    patch.setattr(engine, "osevent_beforepoll", spoilt)


# Hooks and timeouts


@fails("hooks.the_first_evgen_registers_an_fd_and_the_last_one_deregisters_it_over_and_over")
def hooks_are_called_late(engine: EmbeddedEngine, patch: Patch) -> None:
    events = parts(engine).core.osevents
    hook, late = events._hook, []

    def spoilt(name: str, *args: Any) -> Any:
        if name == "fd_register":
            late.append(args)
            return object()
        return hook(name, *args)

    patch.setattr(events, "_hook", spoilt)


@fails("hooks.ctx_free_deregisters_everything")
def freeing_forgets_to_deregister(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(parts(engine).deaths, "disable_all", lambda: None)
    patch.setattr(parts(engine).ejects, "disable_all", lambda: None)


@fails("hooks.what_the_hook_returned_is_handed_back")
def the_engines_own_token_is_handed_back(engine: EmbeddedEngine, patch: Patch) -> None:
    events = parts(engine).core.osevents
    register = events.register_fd

    def spoilt(*args: Any) -> Any:
        interest = register(*args)
        interest.nexus.registration = interest.nexus
        return interest

    patch.setattr(events, "register_fd", spoilt)


@fails("hooks.what_the_loop_says_of_events_is_not_believed")
def the_loop_is_believed(engine: EmbeddedEngine, patch: Patch) -> None:
    occurred = engine.osevent_occurred_fd

    def spoilt(token: object, fd: int, events: int, revents: int) -> None:
        if revents & events:
            occurred(token, fd, events, revents)

    patch.setattr(engine, "osevent_occurred_fd", spoilt)


@fails("hooks.a_report_of_another_fd_is_ignored")
def the_fds_number_is_not_looked_at(engine: EmbeddedEngine, patch: Patch) -> None:
    events = parts(engine).core.osevents
    occurred = events.occurred_fd
    patch.setattr(events, "occurred_fd", lambda token, fd: occurred(token, token.interest.fd))


@fails("hooks.a_report_that_comes_after_the_deregistration_is_ignored")
def a_stale_report_is_obeyed(engine: EmbeddedEngine, patch: Patch) -> None:
    events, store = parts(engine).core.osevents, parts(engine).store
    enable = parts(engine).deaths.enable
    evgens: list[Any] = []

    def noted(domid: int, user: int) -> Any:
        evgens.append(enable(domid, user))
        return evgens[-1]

    def spoilt(token: Any, fd: int) -> None:
        store._receive()
        for evgen in evgens:
            parts(engine).core.occurred(DomainDeath(evgen.domid, for_user=evgen.user))

    patch.setattr(parts(engine).deaths, "enable", noted)
    patch.setattr(events, "occurred_fd", spoilt)


@fails("hooks.a_failing_hook_fails_the_call_with_its_code_and_changes_nothing")
def a_failing_hook_is_passed_over(engine: EmbeddedEngine, patch: Patch) -> None:
    events = parts(engine).core.osevents
    hook = events._hook

    def spoilt(*args: Any) -> Any:
        with contextlib.suppress(OSEventRegFail):
            return hook(*args)

    patch.setattr(events, "_hook", spoilt)


@fails("hooks.a_failing_hook_fails_the_call_with_its_code_and_changes_nothing")
def a_failing_hooks_code_is_lost(engine: EmbeddedEngine, patch: Patch) -> None:
    events = parts(engine).core.osevents
    hook = events._hook

    def spoilt(*args: Any) -> Any:
        try:
            return hook(*args)
        except OSEventRegFail:
            raise OSEventRegFail from None

    patch.setattr(events, "_hook", spoilt)


@fails("hooks.a_hook_must_not_call_the_engine")
def hooks_may_come_back_in(engine: EmbeddedEngine, patch: Patch) -> None:
    events = parts(engine).core.osevents

    def spoilt(name: str, *args: Any) -> Any:
        with parts(engine).core.unlocked():
            return getattr(events.hooks, name)(*args)

    patch.setattr(events, "_hook", spoilt)


@fails("hooks.hooks_are_registered_once_and_before_any_interest")
def hooks_may_be_registered_at_any_time(engine: EmbeddedEngine, patch: Patch) -> None:
    def spoilt(hooks: object) -> None:
        parts(engine).core.osevents.hooks = hooks

    patch.setattr(engine, "osevent_register_hooks", spoilt)


@fails("timeouts.a_timeout_must_occur_exactly_once")
def a_timeout_may_occur_twice(engine: EmbeddedEngine, patch: Patch) -> None:
    occurred, seen = engine.osevent_occurred_timeout, []

    def spoilt(token: object) -> None:
        if token not in seen:
            seen.append(token)
            occurred(token)

    patch.setattr(engine, "osevent_occurred_timeout", spoilt)


@fails("timeouts.a_timeout_of_no_more_interest_is_asked_for_at_once_and_then_does_nothing")
def unwanted_timeouts_are_left_alone(engine: EmbeddedEngine, patch: Patch) -> None:
    events = parts(engine).core.osevents
    hook = events._hook
    patch.setattr(events, "_hook", lambda name, *args: None if name == "timeout_modify" else hook(name, *args))


@fails("timeouts.an_early_report_is_believed")
def an_early_report_is_ignored(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(engine, "osevent_occurred_timeout", lambda token: None)


@fails("timeouts.an_aborted_operation_asks_for_its_timeout_at_once")
def an_unwanted_timeout_is_asked_for_twice(engine: EmbeddedEngine, patch: Patch) -> None:
    events = parts(engine).core.osevents
    hook = events._hook

    def spoilt(name: str, *args: Any) -> Any:
        if name == "timeout_modify":
            hook(name, *args)
        return hook(name, *args)

    patch.setattr(events, "_hook", spoilt)


@fails("timeouts.a_late_report_does_not_hit_the_timeout_that_came_after")
def a_token_is_recycled_too_early(engine: EmbeddedEngine, patch: Patch) -> None:
    events = parts(engine).core.osevents
    cancel = events.cancel_timeout

    def spoilt(interest: Any) -> None:
        cancel(interest)
        events._idle_timeout_nexi.append(interest.nexus)

    patch.setattr(events, "cancel_timeout", spoilt)


# Operations, children, lives


@fails("operations.a_failure_before_the_start_is_raised_and_not_reported")
def a_failure_before_the_start_is_reported_too(engine: EmbeddedEngine, patch: Patch) -> None:
    run = operations.Operations.run

    def spoilt(self: Any, begin: Any, domid: int, how: Any) -> None:
        try:
            run(self, begin, domid, how)
        except Exception:
            if how is not None and how.callback is not None:
                how.callback(-3)
            raise

    patch.setattr(operations.Operations, "run", spoilt)


@fails("operations.an_operation_that_goes_on_can_be_aborted")
def an_aborted_operation_ends_well(engine: EmbeddedEngine, patch: Patch) -> None:
    complete = operations.Operations.complete
    patch.setattr(operations.Operations, "complete", lambda self, operation, rc: complete(self, operation, 0))


@fails("operations.aborting_finds_the_operation_by_the_object_that_it_was_started_with")
def aborting_goes_by_the_user_value(engine: EmbeddedEngine, patch: Patch) -> None:
    abort = engine.ao_abort

    def spoilt(how: AsyncHow) -> None:
        for operation in reversed(parts(engine).operations._in_progress):
            if operation.how.for_event == how.for_event:
                return abort(operation.how)
        return abort(how)

    patch.setattr(engine, "ao_abort", spoilt)


@fails("operations.an_operation_ends_with_a_callback_instead")
def an_operation_ends_with_an_event_besides_its_callback(engine: EmbeddedEngine, patch: Patch) -> None:
    ctx = parts(engine).core
    completed = ctx.completed
    patch.setattr(ctx, "completed", lambda f, rc: (completed(f, rc), ctx.occurred(DomainDeath(0))))


@fails("operations.freeing_is_refused_while_an_operation_goes_on_and_harmless")
def freeing_drops_operations(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(operations.Operations, "__bool__", lambda self: False)


@fails("lifecycle.a_forked_child_cannot_use_the_engine_by_mistake")
def a_forked_child_may_use_the_engine(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(core.Core, "in_child", False)


@fails("lifecycle.a_claimed_engine_serves_its_owner_alone")
def a_claimed_engine_serves_everybody(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(EmbeddedEngine, "_check_owner", lambda self: None)


@fails("lifecycle.an_engine_leaves_no_fd_behind")
def a_pipe_is_forgotten(engine: EmbeddedEngine, patch: Patch) -> None:
    close = parts(engine).core.osevents.close
    patch.setattr(parts(engine).core.osevents, "close", lambda: (close(), os.pipe()))


@fails("succession.a_successor_is_opened_on_the_same_host")
def a_successor_sees_another_host(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr("gxl.engines.embedded.engine._Succession.open", lambda self: EmbeddedEngine())


@fails("succession.whoever_does_not_own_the_engine_gets_no_succession")
def anybody_may_have_a_succession(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(EmbeddedEngine, "_check_owner", lambda self: None)


@fails("succession.a_succession_comes_from_an_engine_that_is_beyond_help_too")
def a_dead_engine_has_no_succession(engine: EmbeddedEngine, patch: Patch) -> None:
    succession = EmbeddedEngine.succession

    def spoilt(self: EmbeddedEngine) -> Any:
        with parts(self).core.enter():
            return succession(self)

    patch.setattr(EmbeddedEngine, "succession", spoilt)


@fails("succession.the_end_of_the_connection_to_xenstored_shows_on_an_fd_or_is_noticed")
def the_end_of_xenstored_passes_unnoticed(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(parts(engine).store, "_ready", lambda revents: None)


@fails("children.an_engine_beyond_help_can_be_freed_once_its_child_has_ended")
def a_dead_engine_hears_nothing_of_its_children(engine: EmbeddedEngine, patch: Patch) -> None:
    enter = core.Core.enter
    patch.setattr(core.Core, "enter", lambda self, even_dead=False: enter(self))


@fails("sigchld.by_default_sigchld_is_the_engines_only_while_it_has_a_child")
def the_handler_stays_behind(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(children.SIGNAL, "remove", lambda engine: None)


@fails("sigchld.engines_share_the_handler_and_the_last_one_removes_it")
def the_first_engine_to_go_takes_the_handler_along(engine: EmbeddedEngine, patch: Patch) -> None:
    remove = children.SIGNAL.remove

    def spoilt(gone: Any) -> None:
        for other in list(children.SIGNAL._wakeups):
            remove(other)

    patch.setattr(children.SIGNAL, "remove", spoilt)


@fails("sigchld.whatever_a_reaped_callback_raises_the_engines_own_children_are_reaped")
def a_reaped_callback_that_raises_ends_the_reaping(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(children.Children, "_foreign", lambda self, *child: self.mode.reaped_callback(*child))


@fails("sigchld.selective_reaping_leaves_the_applications_children")
def selective_reaping_reaps_everything(engine: EmbeddedEngine, patch: Patch) -> None:
    def spoilt(self: Any) -> None:
        with contextlib.suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                self.reaped(*reaped)

    patch.setattr(children.Children, "check_all", spoilt)


@fails("sigchld.in_libxl_mode_the_engine_reaps_every_child_and_reports_the_foreign_ones")
def foreign_children_are_not_reported(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(children.Children, "_foreign", lambda self, pid, status: True)


@fails("children.a_reaped_child_ends_its_operation_with_its_status")
def a_childs_status_is_not_looked_at(engine: EmbeddedEngine, patch: Patch) -> None:
    reaped = children.Children.reaped
    patch.setattr(children.Children, "reaped", lambda self, pid, status: reaped(self, pid, 0))


@fails("children.a_fork_replacement_is_used_in_every_mode")
def the_fork_replacement_is_not_used(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(children.Children, "_fork", lambda self: os.fork())


@fails("sigchld.a_handler_that_somebody_else_has_is_named_and_respected")
def somebody_elses_handler_is_replaced(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(children.SIGNAL, "check", lambda: None)


@fails("children.in_mainloop_mode_sigchld_is_never_touched_and_nothing_is_reaped")
def children_are_reaped_behind_the_applications_back(engine: EmbeddedEngine, patch: Patch) -> None:
    before = engine.osevent_beforepoll

    def spoilt(now: float | None = None) -> Any:
        parts(engine).children._callbacks and engine.childproc_sigchld_occurred()
        return before(now)

    patch.setattr(engine, "osevent_beforepoll", spoilt)
