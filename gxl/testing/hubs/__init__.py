# SPDX-License-Identifier: LGPL-2.1-or-later
"""The conformance suite for hub providers.

A case is a function that takes a Rig; what it is called is what a provider must do. To run all of them in pytest,
subclass HubProviderTests in a test module:

    class TestMyHub(HubProviderTests):
        def make_hub(self) -> IHub:
            return MyHub()
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from gxl.interfaces import IHub
from gxl.testing.hubs import children, fds, timeouts, waiting
from gxl.testing.hubs.rig import Rig

Case = Callable[[Rig], None]


def _cases_of(module: ModuleType) -> list[Case]:
    return [
        entry
        for name, entry in vars(module).items()
        if callable(entry)
        and entry.__module__ == module.__name__
        and entry.__annotations__ == {"rig": "Rig", "return": "None"}
    ]


OSEVENT_CASES = [*_cases_of(fds), *_cases_of(timeouts), *_cases_of(waiting)]
"""For bindings with osevent hooks."""
CHILD_CASES = _cases_of(children)
"""For bindings with childproc hooks as well."""


class HubProviderTests:
    """Subclass it in a test module, and say how to make the provider; pytest then runs every case against it."""

    def make_hub(self) -> IHub:
        """The provider to test."""
        raise NotImplementedError

    def fork(self) -> int:
        """Forks as programs of this loop do, if the loop needs some care so that it works in the child."""
        return os.fork()

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        """A binding of the provider's, closed after the case."""
        rig = Rig(self.make_hub(), self.fork)
        with rig.cleanup:
            yield rig

    @pytest.mark.parametrize("case", OSEVENT_CASES, ids=lambda case: case.__name__)
    def test_hub(self, rig: Rig, case: Case) -> None:
        """A case for fds, timeouts or waiting."""
        if rig.binding.osevent is None:
            pytest.skip("this provider has no osevent hooks: a Context pumps by beforepoll and afterpoll")
        case(rig)

    @pytest.mark.parametrize("case", CHILD_CASES, ids=lambda case: case.__name__)
    def test_children(self, rig: Rig, case: Case) -> None:
        """A case for children."""
        if rig.binding.childproc is None:
            pytest.skip("this provider can't watch children here")
        case(rig)
