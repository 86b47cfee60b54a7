# SPDX-License-Identifier: LGPL-2.1-or-later
"""The conformance suite for hub providers: it passes what is right, and finds what is broken, by name."""

from __future__ import annotations

import asyncio

import pytest
from broken_hubs import FAULTS

from gxl.hubhooks.asyncio import AsyncioHub
from gxl.hubhooks.poll import PollHub
from gxl.testing.hubs import CASES, CONTEXT_CASES, HubProviderFailed, check_hub_provider
from gxl.testing.hubs.rig import Main

BY_NAME = {case.__name__: case for case in [*CASES, *CONTEXT_CASES]}


def run(main: Main) -> None:
    asyncio.run(main())


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_broken_provider_is_found_by_the_case_for_its_fault(name: str) -> None:
    make_hub, case = FAULTS[name]
    check_hub_provider(AsyncioHub, run, cases=[BY_NAME[case]])
    with pytest.raises(HubProviderFailed, match=case) as caught:
        check_hub_provider(make_hub, run, cases=[BY_NAME[case]], patience=0.5)
    assert list(caught.value.failures) == [case]


def test_a_right_provider_passes_all_of_it() -> None:
    check_hub_provider(PollHub)


def test_every_failure_is_in_the_report() -> None:
    make_hub, _ = FAULTS["ForgetsWakeUps"]
    two = [
        BY_NAME["a_wake_up_is_kept_until_somebody_waits_and_used_up_by_that"],
        BY_NAME["everything_has_the_contracts_shape"],
    ]
    with pytest.raises(HubProviderFailed) as caught:
        check_hub_provider(make_hub, run, cases=two, patience=0.5)
    assert list(caught.value.failures) == ["a_wake_up_is_kept_until_somebody_waits_and_used_up_by_that"]
    assert "AssertionError" in str(caught.value)
