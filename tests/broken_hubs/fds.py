# SPDX-License-Identifier: LGPL-2.1-or-later
"""Providers with a fault of fds."""

from __future__ import annotations

import os
import select
from typing import Any

from broken_hubs.faults import fault
from gxl.errors import MisuseError
from gxl.hubhooks import asyncio as right


@fault("an_fd_is_reported_for_as_long_as_it_is_ready")
class ReportsOnce(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        def once(*report: Any) -> None:
            self._fds.change(interest, 0)
            self._binding.sink.fd_ready(*report)

        interest = self._fds.watch(fd, events, for_libxl, once)
        return interest


@fault("an_fd_is_reported_with_its_token_fd_events_and_what_it_is_ready_for")
class ReportsTheFdForItsToken(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        return super().fd_register(fd, events, fd)


@fault("modify_changes_what_is_watched_at_once")
class IgnoresModify(right._OSEvent):
    def fd_modify(self, fd: int, registration: object, events: int) -> Any:
        return registration


@fault("modify_changes_what_is_watched_at_once")
class ModifiesLater(right._OSEvent):
    def fd_modify(self, fd: int, registration: Any, events: int) -> Any:
        self._binding.later(0.02, lambda: self._fds.change(registration, events))
        return registration


@fault("a_deregistered_fd_is_not_reported")
class DeregistersLater(right._OSEvent):
    def fd_deregister(self, fd: int, registration: Any) -> None:
        self._binding.later(0.02, lambda: self._fds.forget(registration))


@fault("an_fd_registered_for_nothing_is_never_reported")
class TakesNothingForReading(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        return super().fd_register(fd, events or select.POLLIN, for_libxl)


@fault("an_fd_may_be_registered_twice_and_each_is_told_its_own")
class KnowsOneRegistrationPerFd(right._OSEvent):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._by_fd: dict[int, Any] = {}

    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        if fd in self._by_fd:
            self._fds.forget(self._by_fd[fd])
        self._by_fd[fd] = super().fd_register(fd, events, for_libxl)
        return self._by_fd[fd]


@fault("urgent_data_is_reported_even_if_nothing_else_is_watched")
class KnowsReadingAndWritingOnly(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        return super().fd_register(fd, events & (select.POLLIN | select.POLLOUT), for_libxl)


@fault("an_fd_that_is_not_open_is_refused_and_leaves_no_trace")
class FailsAndIsLeftWithATrace(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        try:
            return super().fd_register(fd, events, for_libxl)
        except OSError:
            self._binding.later(0, lambda: self._binding.sink.fd_ready(for_libxl, fd, events, events))
            raise


@fault("an_fd_that_is_not_open_is_refused_and_leaves_no_trace")
class AcceptsAnything(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        try:
            return super().fd_register(fd, events, for_libxl)
        except (OSError, TypeError, ValueError):
            return None


@fault("a_regular_file_is_always_ready")
class RefusesFiles(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        if os.path.isfile(f"/proc/self/fd/{fd}") or "(deleted)" in os.readlink(f"/proc/self/fd/{fd}"):
            raise PermissionError(1, "as epoll says")
        return super().fd_register(fd, events, for_libxl)


@fault("a_busy_fd_starves_neither_timeouts_nor_others")
class ServesTheFirstOnly(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        def tell(*report: Any) -> None:
            lowest = min(self._fds._table)
            if fd == lowest or not select.select([lowest], [], [], 0)[0]:
                self._binding.sink.fd_ready(*report)

        return self._fds.watch(fd, events, for_libxl, tell)


@fault("an_fd_may_be_closed_and_its_number_used_again_in_the_same_turn")
@fault("an_fd_reused_inside_a_report_is_not_mistaken_for_the_old_one")
class RemembersWhichNumbersWereReady(right._OSEvent):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._by_fd: dict[int, tuple[object, int]] = {}

    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        def tell(token: object, fd: int, events: int, revents: int) -> None:
            self._binding.call_soon(lambda: self._tell(fd, revents))

        self._by_fd[fd] = for_libxl, events
        return self._fds.watch(fd, events, for_libxl, tell)

    def fd_deregister(self, fd: int, registration: Any) -> None:
        super().fd_deregister(fd, registration)
        self._by_fd.pop(fd, None)

    def _tell(self, fd: int, revents: int) -> None:
        if fd in self._by_fd:
            token, events = self._by_fd[fd]
            self._binding.sink.fd_ready(token, fd, events, revents)


@fault("an_fd_that_becomes_ready_is_reported_soon")
class LooksAtItsFdsNowAndThen(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        under_way: list[Any] = []  # one at a time: those to spare would be in time for what happens next

        def tell(*report: Any) -> None:
            def report_it() -> None:
                under_way.clear()
                if interest.watched:
                    self._binding.sink.fd_ready(*report)

            if not under_way:
                under_way.append(self._binding.later(0.3, report_it))

        interest = self._fds.watch(fd, events, for_libxl, tell)
        return interest


@fault("an_fd_that_is_ready_already_is_not_reported_from_inside_a_hook")
class ReportsAReadyFdAtOnce(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        registration = super().fd_register(fd, events, for_libxl)
        if events & select.POLLIN and select.select([fd], [], [], 0)[0]:
            self._binding.sink.fd_ready(for_libxl, fd, events, select.POLLIN)
        return registration


@fault("an_fd_that_is_ready_already_is_not_reported_from_inside_a_hook")
class ReportsAReadyFdWhenItIsModified(right._OSEvent):
    def fd_modify(self, fd: int, registration: Any, events: int) -> Any:
        super().fd_modify(fd, registration, events)
        if events & select.POLLIN and select.select([fd], [], [], 0)[0]:
            self._binding.sink.fd_ready(registration.token, fd, events, select.POLLIN)
        return registration


@fault("an_error_is_reported_for_as_long_as_it_lasts")
class ReportsAnErrorOnce(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        def tell(token: object, fd: int, events: int, revents: int) -> None:
            if revents & select.POLLERR:
                self._fds.change(interest, 0)
            self._binding.sink.fd_ready(token, fd, events, revents)

        interest = self._fds.watch(fd, events, for_libxl, tell)
        return interest


@fault("a_hang_up_is_reported")
@fault("an_error_is_reported_for_as_long_as_it_lasts")
class ReportsOnlyWhatWasAskedFor(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        def tell(token: object, fd: int, events: int, revents: int) -> None:
            if revents & events:
                self._binding.sink.fd_ready(token, fd, events, revents & events)

        return self._fds.watch(fd, events, for_libxl, tell)


@fault("events_that_poll_does_not_know_are_refused")
class TakesAnyEvents(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        return super().fd_register(fd, select.POLLIN, for_libxl)


@fault("an_fd_that_was_closed_too_early_hurts_only_itself")
class DiesOfAClosedFd(right._OSEvent):
    def fd_deregister(self, fd: int, registration: Any) -> None:
        os.fstat(fd)
        super().fd_deregister(fd, registration)


@fault("what_a_report_deregisters_is_not_reported")
class ReportsWhatItSaw(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        def tell(*report: Any) -> None:
            self._binding.call_soon(lambda: self._binding.sink.fd_ready(*report))

        return self._fds.watch(fd, events, for_libxl, tell)


@fault("a_report_may_register_and_modify")
class RefusesToRegisterInsideAReport(right._OSEvent):
    inside = False

    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        def tell(*report: Any) -> None:
            self.inside = True
            try:
                self._binding.sink.fd_ready(*report)
            finally:
                self.inside = False

        if self.inside:
            raise MisuseError("not now")
        return self._fds.watch(fd, events, for_libxl, tell)


@fault("a_report_may_register_and_modify")
class UndoesWhatAReportModified(right._OSEvent):
    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        def tell(*report: Any) -> None:
            self._binding.sink.fd_ready(*report)
            if interest.watched is not None:
                self._fds.change(interest, events)

        interest = self._fds.watch(fd, events, for_libxl, tell)
        return interest


@fault("a_timeouts_report_may_register_and_deregister_fds")
class ForgetsFdsThatATimeoutRegistered(right._OSEvent):
    inside = False

    def _due(self, timeout: Any) -> None:
        self.inside = True
        super()._due(timeout)
        self.inside = False

    def fd_register(self, fd: int, events: int, for_libxl: object) -> Any:
        return super().fd_register(fd, 0 if self.inside else events, for_libxl)


@fault("a_timeouts_report_may_register_and_deregister_fds")
class DeregistersWhenTheTimeoutsAreDone(right._OSEvent):
    inside = False

    def _due(self, timeout: Any) -> None:
        self.inside = True
        super()._due(timeout)
        self.inside = False

    def fd_deregister(self, fd: int, registration: Any) -> None:
        if self.inside:
            self._binding.later(0.02, lambda: self._fds.forget(registration))
        else:
            super().fd_deregister(fd, registration)


@fault("an_fd_can_be_neither_registered_nor_modified_after_it_is_over")
class ModifiesWhatIsOver(right._OSEvent):
    def fd_modify(self, fd: int, registration: Any, events: int) -> Any:
        return registration if registration.watched is None else super().fd_modify(fd, registration, events)
