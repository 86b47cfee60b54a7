# SPDX-License-Identifier: LGPL-2.1-or-later
"""Providers with a fault of timeouts."""

from __future__ import annotations

import time
from typing import Any

from broken_hubs.faults import fault
from gxl.hubhooks import asyncio as right


@fault("a_timeout_is_never_early")
class CountsWholeMilliseconds(right._OSEvent):
    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        left = int((abs - time.time()) * 1000) / 1000
        return super().timeout_register(time.time() + left - 0.0002, for_libxl)


@fault("a_timeout_counts_from_now_not_from_when_the_loop_last_looked")
class CountsFromTheLastTurn(right._OSEvent):
    looked = 0.0

    def _due(self, timeout: Any) -> None:
        self.looked = time.time()
        super()._due(timeout)

    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        late = time.time() - self.looked if self.looked and abs else 0
        return super().timeout_register(abs - late, for_libxl)


@fault("a_timeout_that_is_due_already_is_reported_soon_but_not_from_inside_the_hook")
class ReportsInsideTheHook(right._OSEvent):
    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        if abs <= time.time():
            self._binding.sink.timeout_due(for_libxl)
            return right._Timeout(for_libxl, 0)
        return super().timeout_register(abs, for_libxl)


@fault("a_timeout_that_is_due_already_is_reported_soon_but_not_from_inside_the_hook")
class SleepsForEverIfLate(right._OSEvent):
    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        return super().timeout_register(abs if abs == 0 or abs > time.time() else 1e12, for_libxl)


@fault("modify_reports_a_timeout_at_once_and_exactly_once")
class IgnoresTimeoutModify(right._OSEvent):
    def timeout_modify(self, registration: Any, abs: float) -> Any:
        return registration


@fault("modify_reports_a_timeout_at_once_and_exactly_once")
class ReportsEachModify(right._OSEvent):
    def timeout_modify(self, registration: Any, abs: float) -> Any:
        self._binding.later(0, lambda: self._binding.sink.timeout_due(registration.for_libxl))
        return registration


@fault("the_same_token_may_stand_for_several_timeouts")
class KnowsTimeoutsByTheirToken(right._OSEvent):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._by_token: dict[object, Any] = {}

    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        if for_libxl in self._by_token:
            self.timeout_deregister(self._by_token[for_libxl])
        self._by_token[for_libxl] = super().timeout_register(abs, for_libxl)
        return self._by_token[for_libxl]


@fault("a_thousand_timeouts_are_each_reported_once")
class HasOneTimer(right._OSEvent):
    latest: Any = None

    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        if self.latest is not None:
            self.timeout_deregister(self.latest)
        self.latest = super().timeout_register(abs, for_libxl)
        return self.latest


@fault("a_moment_that_no_clock_can_show_disturbs_nobody")
class AcceptsAnyMoment(right._OSEvent):
    def timeout_register(self, abs: Any, for_libxl: object) -> Any:
        return super().timeout_register(abs if isinstance(abs, float) and abs == abs else 0, for_libxl)


@fault("modify_makes_a_timeout_occur_soon")
class ModifiesToSecondsLater(right._OSEvent):
    def timeout_modify(self, registration: Any, abs: float) -> Any:
        if registration in self._timeouts and registration.moment > time.monotonic() + 0.3:
            right._cancel(registration.handle)
            registration.moment = time.monotonic() + 0.3
            self._arm(registration)
        return registration


@fault("a_timeout_that_is_due_is_reported_soon")
class ReportsDueTimeoutsLate(right._OSEvent):
    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        return super().timeout_register(max(abs, time.time() + 0.3), for_libxl)


@fault("a_timeout_that_is_due_is_reported_soon")
class CountsWholeSeconds(right._OSEvent):
    def timeout_register(self, abs: float, for_libxl: object) -> Any:
        return super().timeout_register(float(int(abs) + 1) if abs > time.time() else abs, for_libxl)


@fault("modify_races_with_the_timeouts_own_occurrence_and_it_is_reported_once")
class ReportsAModifyBesideTheTimeout(right._OSEvent):
    def timeout_modify(self, registration: Any, abs: float) -> Any:
        if registration in self._timeouts:
            registration.moment = 0
            self._arm(registration)
        return registration


@fault("two_timeouts_due_together_may_modify_each_other")
class LosesWhatAReportModifies(right._OSEvent):
    inside = False

    def _due(self, timeout: Any) -> None:
        self.inside = True
        super()._due(timeout)
        self.inside = False

    def timeout_modify(self, registration: Any, abs: float) -> Any:
        if self.inside:
            self.timeout_deregister(registration)
        return super().timeout_modify(registration, abs)


@fault("a_report_may_register_the_timeout_anew")
class ForgetsWhatAReportRegisters(right._OSEvent):
    def _due(self, timeout: Any) -> None:
        super()._due(timeout)
        for other in tuple(self._timeouts):
            if other.for_libxl == timeout.for_libxl:
                self.timeout_deregister(other)


@fault("a_chain_of_timeouts_that_are_due_does_not_starve_fds")
class ReportsUntilNothingIsDue(right._OSEvent):
    def _due(self, timeout: Any) -> None:
        self._timeouts.add(timeout)
        while due := [other for other in self._timeouts if other.moment <= time.monotonic()]:
            self.timeout_deregister(due[0])
            self._binding.sink.timeout_due(due[0].for_libxl)
