# SPDX-License-Identifier: LGPL-2.1-or-later
"""The conformance suite for engines.

A case is a function that takes a Rig; what it is called is what an engine must do. To run all of them in pytest,
subclass EngineTests in a test module:

    class TestMyEngine(EngineTests):
        def make_engine(self, host: SimHost) -> IEngine:
            return MyEngine(host)

Without pytest, check_engine(MyEngine) runs them, and raises what names those that failed.

Where libxl does not do what its header says, the cases go by gxl.testing.differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest

from gxl.interfaces import IEngine
from gxl.simhost import SimHost
from gxl.testing.differences import Side

_ROOMS = (
    *("callbacks", "children", "deaths", "ejects", "hooks", "lifecycle", "operations", "polling", "queue", "rig"),
    *("processes", "sigchld", "succession", "timeouts"),
)
# Before they are imported: pytest then says what a failed assertion of theirs compared.
pytest.register_assert_rewrite(*(f"{__name__}.{room}" for room in _ROOMS))

from gxl.testing.engines import (  # noqa: E402  after register_assert_rewrite
    callbacks,
    children,
    deaths,
    ejects,
    hooks,
    lifecycle,
    operations,
    polling,
    queue,
    sigchld,
    succession,
    timeouts,
)
from gxl.testing.engines.rig import Drive, Rig, in_a_fresh_process  # noqa: E402  after register_assert_rewrite

Case = Callable[[Rig], None]


def _cases_of(module: ModuleType) -> list[Case]:
    return [
        entry
        for name, entry in vars(module).items()
        if callable(entry)
        and not name.startswith("_")
        and entry.__module__ == module.__name__
        and getattr(entry, "__annotations__", None) == {"rig": "Rig", "return": "None"}
    ]


EVENT_CASES = [
    *_cases_of(queue),
    *_cases_of(callbacks),
    *_cases_of(deaths),
    *_cases_of(ejects),
    *_cases_of(operations),
]
"""What must hold whichever way the engine is driven."""
POLL_CASES = [*_cases_of(polling), *_cases_of(lifecycle), *_cases_of(succession)]
"""For an engine that is driven by beforepoll and afterpoll."""
HOOK_CASES = [*_cases_of(hooks), *_cases_of(timeouts)]
"""For an engine with osevent hooks."""
CHILD_CASES = [*_cases_of(children), *_cases_of(sigchld)]
"""What concerns the whole process: each needs one of its own."""


def _name(case: Case) -> str:
    return f"{case.__module__.rpartition('.')[2]}.{case.__name__}"


class EngineFailed(AssertionError):
    """What check_engine raises. `failures`: the names of the cases that failed, and why."""

    def __init__(self, failures: dict[str, BaseException]) -> None:
        self.failures = failures
        lines = [f"{name}: {type(error).__name__}: {error}" for name, error in failures.items()]
        super().__init__(f"{len(lines)} cases failed:\n" + "\n".join(lines))


def check_engine(
    make_engine: Callable[[SimHost], IEngine],
    side: Side = "header",
    cases: Sequence[Case] | None = None,
    patience: float = 10.0,
) -> None:
    """Run the cases (None: all of them) against the engines that `make_engine` makes on simulated hosts.

    Raises EngineFailed if any fails. `side`: which column of the table of differences the engine follows. `patience`:
    the seconds after which what has not happened counts as never happening.
    """
    failures: dict[str, BaseException] = {}
    for case in [*EVENT_CASES, *POLL_CASES, *HOOK_CASES, *CHILD_CASES] if cases is None else cases:
        drives: dict[Drive, bool] = {"hooks": case not in POLL_CASES, "poll": case not in HOOK_CASES}
        for drive in (drive for drive, wanted in drives.items() if wanted):

            def alone(case: Case = case, drive: Drive = drive) -> None:
                with SimHost() as host:
                    rig = Rig(host, lambda: make_engine(host), side, drive, patience)
                    with rig.cleanup:
                        case(rig)

            try:
                in_a_fresh_process(alone) if case in CHILD_CASES else alone()
            except (Exception, pytest.fail.Exception) as error:
                failures[f"{_name(case)}[{drive}]"] = error
    if failures:
        raise EngineFailed(failures)


class EngineTests:
    """Subclass it in a test module, and say how to make the engine; pytest then runs every case against it."""

    side: Side = "header"
    """Which column of the table of differences the engine follows."""

    def make_engine(self, host: Any) -> IEngine:
        """A new engine on `host`."""
        raise NotImplementedError

    @pytest.fixture
    def host(self) -> Iterator[Any]:
        """The simulated host: a SimHost, or something with its methods."""
        with SimHost() as host:
            yield host

    def rig(self, host: Any, drive: Drive) -> Rig:
        """A rig with a new engine on `host`."""
        return Rig(host, lambda: self.make_engine(host), self.side, drive)

    @pytest.mark.parametrize("drive", ["poll", "hooks"])
    @pytest.mark.parametrize("case", EVENT_CASES, ids=_name)
    def test_events(self, host: Any, case: Case, drive: Drive) -> None:
        """A case about events, with either kind of loop."""
        rig = self.rig(host, drive)
        with rig.cleanup:
            case(rig)

    @pytest.mark.parametrize("case", POLL_CASES, ids=_name)
    def test_polling(self, host: Any, case: Case) -> None:
        """A case about an engine that is polled."""
        rig = self.rig(host, "poll")
        with rig.cleanup:
            case(rig)

    @pytest.mark.parametrize("case", HOOK_CASES, ids=_name)
    def test_hooks(self, host: Any, case: Case) -> None:
        """A case about osevent hooks."""
        rig = self.rig(host, "hooks")
        with rig.cleanup:
            case(rig)

    @pytest.mark.parametrize("drive", ["poll", "hooks"])
    @pytest.mark.parametrize("case", CHILD_CASES, ids=_name)
    def test_children(self, host: Any, case: Case, drive: Drive) -> None:
        """A case about children and SIGCHLD, with either kind of loop."""

        def alone() -> None:
            rig = self.rig(host, drive)
            with rig.cleanup:
                case(rig)

        in_a_fresh_process(alone)
