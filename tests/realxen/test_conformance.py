# SPDX-License-Identifier: LGPL-2.1-or-later
"""The conformance suite for engines, on the real libxenlight and a real Xen, for the cases that can run there.

One kind of loop has to do, since every domain takes its time; what needs more than a real host offers is skipped, and
says what. On a simulated host all of the suite runs against this library.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from real_host import RealHost

from gxl.engines.libxl import LibxlEngine
from gxl.testing.engines import CHILD_CASES, EVENT_CASES, Case, EngineTests
from gxl.testing.engines.rig import Drive, Rig

ELSEWHERE = {
    "more_domains_than_one_hypercall_tells_of_are_all_looked_at": "they would take minutes to make",
    "many_children_at_once_are_all_reaped": "their domains would take half a minute to make",
    "destroying_removes_what_the_toolstack_wrote": "nobody serves the backends of these disks",
    "domains_are_listed_with_their_states": "a real domain that dies is gone before it can be looked at twice",
}


def _name(case: Case) -> str:
    return f"{case.__module__.rpartition('.')[2]}.{case.__name__}"


@pytest.fixture(scope="module")
def whole_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    host = RealHost(tmp_path_factory.mktemp("guests"))
    yield host
    host.close()


@pytest.mark.usefixtures("unowned_sigchld")
class TestLibxlOnXen(EngineTests):
    side = "library"

    def make_engine(self, host: RealHost) -> LibxlEngine:
        return LibxlEngine()

    @pytest.fixture
    def host(self, whole_host: RealHost, case: Case) -> Iterator[RealHost]:
        if reason := ELSEWHERE.get(case.__name__):
            pytest.skip(reason)
        yield whole_host
        whole_host.next_case()

    def rig(self, host: Any, drive: Drive) -> Rig:
        return Rig(host, lambda: self.make_engine(host), self.side, drive, patience=60)

    @pytest.mark.parametrize("case", EVENT_CASES, ids=_name)
    def test_events(self, host: Any, case: Case) -> None:
        super().test_events(host, case, "hooks")

    @pytest.mark.parametrize("case", CHILD_CASES, ids=_name)
    def test_children(self, host: Any, case: Case) -> None:
        super().test_children(host, case, "hooks")
