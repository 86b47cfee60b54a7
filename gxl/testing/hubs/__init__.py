# SPDX-License-Identifier: LGPL-2.1-or-later
"""The conformance suite for hub providers.

A case is a coroutine function that takes a Rig; what it is called is what a provider must do. Where the loop runs no
coroutines, none of its awaits ever suspends. To run all cases in pytest, subclass HubProviderTests in a test module:

    class TestMyHub(HubProviderTests):
        def make_hub(self) -> IHub:
            return MyHub()

Without pytest, check_hub_provider(MyHub) runs them, raises what names those that failed, and returns what was run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import FrameType, ModuleType
from typing import Any, NamedTuple

import pytest

from gxl.interfaces import IHub
from gxl.testing.hubs import children, contexts, fds, life, timeouts, waiting
from gxl.testing.hubs.contexts import World, why_not
from gxl.testing.hubs.rig import Main, Provider, Rig, run_blocking

Case = Callable[[Any], Coroutine[Any, Any, None]]


def _cases_of(module: ModuleType) -> list[Case]:
    return [
        entry
        for name, entry in vars(module).items()
        if callable(entry)
        and entry.__module__ == module.__name__
        and not name.startswith("_")
        and list(getattr(entry, "__annotations__", ())) in (["rig", "return"], ["world", "return"])
    ]


OSEVENT_CASES = [*_cases_of(fds), *_cases_of(timeouts), *_cases_of(life)]
"""For bindings with osevent hooks."""
CHILD_CASES = _cases_of(children)
"""For bindings with childproc hooks."""
CASES = [*_cases_of(waiting), *OSEVENT_CASES, *CHILD_CASES]
"""All that need a binding only."""
CONTEXT_CASES = _cases_of(contexts)
"""For a Context at the hub, on a simulated host."""
ENGINES = ("embedded", "libxl")
"""With which each of them is run."""


class HubProviderReport(NamedTuple):
    """What check_hub_provider returns: which cases were run, and which could not be. As text it says so in brief.

    A case for a Context is run once with each engine, which is in its name: `a_context_leaves_no_fd_behind[libxl]`.
    """

    passed: tuple[str, ...]
    skipped: dict[str, str]
    """By name: why the case can't be run with this provider."""
    engines: dict[str, str]
    """Why no case was run with this engine; empty if they were."""

    def __str__(self) -> str:
        lines = [f"{len(self.passed)} cases passed, {len(self.skipped)} are not for this provider"]
        for engine, reason in self.engines.items():
            lines.append(
                f"a Context was run with the engine {engine!r}" if not reason else f"not with {engine!r}: {reason}"
            )
        return "; ".join(lines)


class HubProviderFailed(AssertionError):
    """What check_hub_provider raises. `failures`: the names of the cases that failed, and why. `report`: the others."""

    def __init__(self, failures: dict[str, BaseException], report: HubProviderReport) -> None:
        self.failures = failures
        self.report = report
        lines = [f"{name}: {type(error).__name__}: {error}" for name, error in failures.items()]
        super().__init__(f"{len(lines)} cases failed:\n" + "\n".join([*lines, str(report)]))


class RunsNothing(AssertionError):
    """`run(main)` has returned, and main() had not come to its end: so no case can fail."""


def check_hub_provider(
    make_hub: Callable[[], IHub],
    run: Callable[[Main], object] = run_blocking,
    fork: Callable[[], int] = os.fork,
    cases: Sequence[Case] | None = None,
    patience: float = 10.0,
) -> HubProviderReport:
    """Run the cases (None: all of them) against a provider, and raise HubProviderFailed if any fails.

    `run(main)` is for loops that run coroutines: it runs main() to its end in a new loop, as
    `lambda main: asyncio.run(main())` does; one that doesn't is refused, by RunsNothing. `fork`: how programs of this
    loop fork, if not by os.fork. `patience`: the seconds after which what has not happened counts as never happening.

    The cases for a Context are run with gxl's own engine, and with the real libxenlight where that is installed and
    the simulated host's library preloaded; the report says with which, or why not.
    """
    for what, parameter in (("make_hub", make_hub), ("run", run), ("fork", fork)):
        if not callable(parameter):
            raise TypeError(f"{what} must be callable, not {parameter!r}")
    provider = Provider(make_hub, run, fork, patience)
    chosen = [*CASES, *CONTEXT_CASES] if cases is None else cases
    unusable = {engine: why_not(engine) for engine in ENGINES if any(case in CONTEXT_CASES for case in chosen)}
    usable = [engine for engine, reason in unusable.items() if not reason]
    passed: list[str] = []
    skipped: dict[str, str] = {}
    failures: dict[str, BaseException] = {}
    for case in chosen:
        for engine in usable if case in CONTEXT_CASES else [""]:
            name = f"{case.__name__}[{engine}]" if engine else case.__name__
            try:
                run_case(provider, case, engine)
            except RunsNothing:
                raise
            except pytest.skip.Exception as skip:
                skipped[name] = str(skip)
            except Exception as error:
                failures[name] = error
            else:
                passed.append(name)
    report = HubProviderReport(tuple(passed), skipped, unusable)
    if failures:
        raise HubProviderFailed(failures, report)
    return report


def run_case(provider: Provider, case: Case, engine: str = "embedded") -> None:
    """Run one case in a loop of its own. Skips one that this provider can't have to pass."""
    outcomes: list[BaseException | None] = []

    async def main() -> None:
        try:
            await body()
        except BaseException as error:
            outcomes.append(error)
            raise
        outcomes.append(None)

    async def body() -> None:
        if case in CONTEXT_CASES:
            with World.of(engine, provider) as world:
                await case(world)
                return
        rig = Rig(provider)
        with rig.cleanup:
            if case in OSEVENT_CASES and rig.binding.osevent is None:
                pytest.skip("this provider has no osevent hooks: a Context pumps by beforepoll and afterpoll")
            if case in CHILD_CASES and rig.binding.childproc is None:
                pytest.skip("this provider can't watch children here")
            await case(rig)

    with _watchdog(6 * provider.patience):
        provider.run(main)
    if not outcomes:
        raise RunsNothing(f"run={provider.run!r} returned, and had not run main() to its end")
    for error in outcomes:
        if error is not None:  # and run() has swallowed it
            raise error


class _Hung(KeyboardInterrupt):
    """What loops let through to the main thread."""


@contextlib.contextmanager
def _watchdog(seconds: float) -> Iterator[None]:
    """Ends a case in which a broken provider neither wakes anybody nor lets time pass."""

    barked: list[int] = []

    def bark(number: int, frame: FrameType | None) -> None:
        barked.append(number)
        raise _Hung

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    except _Hung:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if barked:  # which `run` may have swallowed
        raise AssertionError(f"it hung for {seconds} s")


class HubProviderTests:
    """Subclass it in a test module, and say how to make the provider; pytest then runs every case against it."""

    def make_hub(self) -> IHub:
        """The provider to test."""
        raise NotImplementedError

    def run(self, main: Main) -> None:
        """Run main() in a new loop, to its end: for loops that run coroutines, `asyncio.run(main())` for instance."""
        run_blocking(main)

    def fork(self) -> int:
        """Fork as programs of this loop do, if the loop needs some care so that it works in the child."""
        return os.fork()

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
    def test_hub(self, case: Case) -> None:
        """A case for the provider alone."""
        run_case(self._provider(), case)

    @pytest.mark.parametrize("engine", ENGINES)
    @pytest.mark.parametrize("case", CONTEXT_CASES, ids=lambda case: case.__name__)
    def test_context(self, case: Case, engine: str) -> None:
        """A case for a Context at this hub; libxl's with the real library, where that is installed."""
        run_case(self._provider(), case, engine)

    def _provider(self) -> Provider:
        blocking = type(self).run is HubProviderTests.run
        return Provider(self.make_hub, run_blocking if blocking else self.run, self.fork)
