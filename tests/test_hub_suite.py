# SPDX-License-Identifier: LGPL-2.1-or-later
"""The conformance suite for hub providers: it passes what is right, and finds what is broken, by name."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from broken_hubs import FAULTS

from gxl.hubhooks.asyncio import AsyncioHub
from gxl.hubhooks.poll import PollHub
from gxl.interfaces import IHub
from gxl.testing.hubs import CASES, CONTEXT_CASES, HubProviderFailed, RunsNothing, check_hub_provider, contexts
from gxl.testing.hubs.rig import Main

BY_NAME = {case.__name__: case for case in [*CASES, *CONTEXT_CASES]}


def run(main: Main) -> None:
    asyncio.run(main())


@pytest.mark.parametrize(
    ("make_hub", "case"), [pytest.param(*fault[1:], id=f"{fault[0]}-{fault[2]}") for fault in FAULTS]
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_broken_provider_is_found_by_the_case_for_its_fault(make_hub: Callable[[], IHub], case: str) -> None:
    with pytest.raises(HubProviderFailed, match=case) as caught:
        check_hub_provider(make_hub, run, cases=[BY_NAME[case]], patience=0.5)
    assert {name.partition("[")[0] for name in caught.value.failures} == {case}


def test_every_case_finds_a_broken_provider() -> None:
    # Those for a Context put the parts together: what breaks them has a case of its own among the others.
    assert {case.__name__ for case in CASES} <= {case for _, _, case in FAULTS}


def test_the_provider_that_the_broken_ones_are_made_of_passes(served_host: object) -> None:
    report = check_hub_provider(AsyncioHub, run)
    assert len(report.passed) == len(CASES) + 2 * len(CONTEXT_CASES)
    assert not report.skipped


def test_the_report_says_what_was_run_and_with_which_engines(served_host: object) -> None:
    report = check_hub_provider(PollHub)
    assert report.engines == {"embedded": "", "libxl": ""}
    assert "a_context_leaves_no_fd_behind[libxl]" in report.passed
    assert "a_context_leaves_no_fd_behind[embedded]" in report.passed
    assert "no osevent hooks" in report.skipped["a_timeout_is_never_early"]
    assert "with the engine 'libxl'" in str(report)


def test_without_libxenlight_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_NAME["a_shutdown_and_a_death_arrive_as_events"]
    for name, value, reason in (
        ("LD_PRELOAD", "", "only with LD_PRELOAD=.*preload"),
        ("GXL_LIBXENLIGHT", "/nowhere/libxenlight.so.4.17", "libxenlight can't be used here: .*/nowhere/libxenlight"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            contexts._libxl.cache_clear()
            report = check_hub_provider(PollHub, cases=[case])
            contexts._libxl.cache_clear()
        assert report.passed == ("a_shutdown_and_a_death_arrive_as_events[embedded]",)
        assert re.search(reason, report.engines["libxl"], re.DOTALL)
        assert "not with 'libxl'" in str(report)


@pytest.mark.parametrize("run", [lambda main: None, lambda main: main().close(), lambda main: main()])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_run_that_runs_nothing_is_refused(run: Callable[[Main], object]) -> None:
    with pytest.raises(RunsNothing, match=r"had not run main.* to its end"):
        check_hub_provider(AsyncioHub, run)


def test_a_run_that_swallows_failures_hides_none() -> None:
    def swallow(main: Main) -> None:
        with contextlib.suppress(BaseException):
            asyncio.run(main())

    (make_hub,) = [make for name, make, _ in FAULTS if name == "ForgetsWakeUps"]
    case = "a_wake_up_is_kept_until_somebody_waits_and_used_up_by_that"
    with pytest.raises(HubProviderFailed, match=case):
        check_hub_provider(make_hub, swallow, cases=[BY_NAME[case]], patience=0.5)


@pytest.mark.parametrize("bad", [{"make_hub": PollHub()}, {"run": None}, {"fork": 7}])
def test_what_cannot_be_called_is_refused_before_any_case_runs(bad: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(bad))} must be callable"):
        check_hub_provider(**{"make_hub": PollHub, **bad})


def test_every_failure_is_in_the_report() -> None:
    (make_hub,) = [make for name, make, _ in FAULTS if name == "ForgetsWakeUps"]
    two = [
        BY_NAME["a_wake_up_is_kept_until_somebody_waits_and_used_up_by_that"],
        BY_NAME["everything_has_the_contracts_shape"],
    ]
    with pytest.raises(HubProviderFailed) as caught:
        check_hub_provider(make_hub, run, cases=two, patience=0.5)
    assert list(caught.value.failures) == ["a_wake_up_is_kept_until_somebody_waits_and_used_up_by_that"]
    assert caught.value.report.passed == ("everything_has_the_contracts_shape",)
    assert "AssertionError" in str(caught.value)
