# SPDX-License-Identifier: LGPL-2.1-or-later
"""The conformance suite finds fault: each broken engine must fail the case that is named for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from broken_engines import BROKEN, Broken, events, loops, troubles

from gxl.engines.embedded import EmbeddedEngine
from gxl.simhost import SimHost
from gxl.testing import EngineFailed, check_engine
from gxl.testing.differences import DIFFERENCES
from gxl.testing.engines import CHILD_CASES, EVENT_CASES, HOOK_CASES, POLL_CASES, Case, polling, queue
from gxl.testing.engines.rig import Rig, in_a_fresh_process

CASES: dict[str, Case] = {
    f"{case.__module__.rpartition('.')[2]}.{case.__name__}": case
    for case in (*EVENT_CASES, *POLL_CASES, *HOOK_CASES, *CHILD_CASES)
}
# How long a case waits for what a broken engine will never do.
PATIENCE = 0.3
# Where threads race, a broken engine may be lucky, but not again and again.
ATTEMPTS = 3


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.spoil.__name__)
def test_a_broken_engine_fails_a_named_case(broken: Broken) -> None:
    case = CASES[broken.case]

    def attempt() -> None:
        host = SimHost()

        def make_engine() -> EmbeddedEngine:
            engine = EmbeddedEngine(host)
            broken.spoil(engine, pytest.MonkeyPatch())
            return engine

        rig = Rig(host, make_engine, "header", "hooks" if case in HOOK_CASES else "poll", PATIENCE)
        try:
            case(rig)
        except (Exception, pytest.fail.Exception):
            return
        raise AssertionError(f"{broken.case} passed")

    for left in reversed(range(ATTEMPTS)):
        try:
            # What is spoilt, leaked or left waiting goes with the process.
            in_a_fresh_process(attempt)
            return
        except AssertionError:
            if not left:
                raise


def test_an_engine_that_is_not_broken_passes_all_the_named_cases() -> None:
    for case in {CASES[broken.case] for broken in BROKEN}:
        # Each with the patience that the broken ones have, or their failures would mean nothing.
        def attempt(case: Case = case) -> None:
            host = SimHost()
            rig = Rig(host, lambda: EmbeddedEngine(host), "header", "hooks" if case in HOOK_CASES else "poll", 3)
            with rig.cleanup:
                case(rig)

        in_a_fresh_process(attempt)


def test_one_line_puts_an_engine_through_the_suite_and_names_what_fails() -> None:
    def good_and_bad() -> None:
        good = [queue.events_are_returned_oldest_first_and_once, polling.readiness_is_honoured_once]
        check_engine(EmbeddedEngine, cases=good)

        class Deaf(EmbeddedEngine):
            def event_check(self, *arguments: Any) -> None:
                return None

        with pytest.raises(EngineFailed) as caught:
            check_engine(Deaf, cases=[*good, queue.nothing_has_happened_yet], patience=0.1)
        assert list(caught.value.failures) == [
            "queue.events_are_returned_oldest_first_and_once[hooks]",
            "queue.events_are_returned_oldest_first_and_once[poll]",
            "polling.readiness_is_honoured_once[poll]",
        ]

    in_a_fresh_process(good_and_bad)


def test_a_case_that_can_not_run_on_a_host_is_skipped_from_a_process_of_its_own_too() -> None:
    with pytest.raises(pytest.skip.Exception, match="no such thing here"):
        in_a_fresh_process(lambda: pytest.skip("no such thing here"))


def test_every_part_of_the_suite_is_tried_on_a_broken_engine() -> None:
    assert {broken.case.partition(".")[0] for broken in BROKEN} == {name.partition(".")[0] for name in CASES}
    assert events
    assert loops
    assert troubles


def test_cases_have_names_of_their_own() -> None:
    assert len(CASES) == len({*EVENT_CASES, *POLL_CASES, *HOOK_CASES, *CHILD_CASES})
    assert len(CASES) > 150


def test_the_table_of_differences_says_something_of_each() -> None:
    assert DIFFERENCES
    assert len({difference.subject for difference in DIFFERENCES}) == len(DIFFERENCES)
    for difference in DIFFERENCES:
        assert difference.header
        assert difference.library
        assert difference.on_header != difference.on_library


def test_the_documentation_prints_the_table() -> None:
    page = (Path(__file__).parent.parent / "docs" / "differences.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    table = [f"| {difference.subject} | {difference.header} | {difference.library} |" for difference in DIFFERENCES]
    assert rows == ["| What | By the header | The library |", "| --- | --- | --- |", *table]
