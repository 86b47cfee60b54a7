# SPDX-License-Identifier: LGPL-2.1-or-later
"""The embedded engine and the real library, on two simulated hosts to which the same things happen.

Random sequences of domain life, evgens, ejects, operations and checks must give the same events in the same order, and
fail alike. What is known to differ (gxl.testing.differences) is left out.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from gxl.engines.embedded import EmbeddedEngine
from gxl.engines.libxl import LibxlEngine
from gxl.errors import LibxlError
from gxl.events import EVENTMASK_ALL, EventType, mask
from gxl.interfaces import AsyncHow
from gxl.simhost import SimHost
from gxl.simhost.remote import RemoteHost
from gxl.testing.engines.rig import Drive, Rig

# Domain 1 is the rigs' own.
domids = st.integers(2, 5)
vdevs = st.sampled_from(["xvda", "hdc"])
masks = st.sampled_from([EVENTMASK_ALL, 0, *(mask(kind) for kind in EventType), mask(*EventType)])
changes = st.one_of(
    st.tuples(st.just("create_domain"), domids),
    st.tuples(st.just("shutdown_domain"), domids, st.integers(0, 7)),
    st.tuples(st.sampled_from(["resume_domain", "pause_domain", "unpause_domain"]), domids),
    st.tuples(st.sampled_from(["mark_dying", "destroy_domain"]), domids),
    st.tuples(st.just("eject_disk"), domids, vdevs),
    st.tuples(st.just("add_disk"), domids, vdevs),
)
commands = st.one_of(
    changes,
    # What happens before anybody looks: one look finds all of it.
    st.tuples(st.just("together"), st.lists(changes, min_size=2, max_size=6)),
    st.tuples(st.just("release")),
    st.tuples(st.just("enable_death"), domids | st.just(77), st.integers(0, 2**64 - 1)),
    st.tuples(st.just("enable_eject"), domids, vdevs, st.integers(0, 3)),
    st.tuples(st.just("disable"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["domain_pause", "domain_unpause", "domain_shutdown", "domain_reboot"]), domids),
    st.tuples(st.just("abort"), st.integers(0, 3)),
    st.tuples(st.just("check"), masks, st.integers(0, 2)),
    st.tuples(st.just("settle")),
)


class Actor:
    """Does what it is told to one engine and its host."""

    def __init__(self, rig: Rig, typemask: int) -> None:
        self.rig = rig
        self.evgens: list[tuple[Any, Any]] = []
        self.ejects: set[tuple[int, str]] = set()
        self.hows: list[AsyncHow] = []
        self.taken: list[Any] = []
        # The rig's own domain comes first, so that both hosts hand out the same ids.
        rig.settle()
        self.listener = rig.listen(typemask)
        for domid in range(2, 6):
            self.create_domain(domid)
            rig.host.add_disk(domid, "xvda")
        for domid in range(2, 5):
            self.enable_death(domid, domid)
            self.enable_eject(domid, "xvda", domid)

    def do(self, name: str, *arguments: Any) -> object:
        """What came of it: a value, or the type and code of an error."""
        try:
            return getattr(self, name, lambda *_: self.other(name, *arguments))(*arguments)
        except LibxlError as error:
            return type(error), error.rc
        except OSError as error:
            return OSError, error.errno

    def other(self, name: str, *arguments: Any) -> object:
        if name.startswith("domain_"):
            self.hows.append(AsyncHow(len(self.hows)))
            return getattr(self.rig.engine, name)(*arguments, self.hows[-1])
        return getattr(self.rig.host, name)(*arguments)

    def together(self, changes: list[tuple[Any, ...]]) -> object:
        with self.rig.host.quiet():
            return [self.do(*change) for change in changes]

    def create_domain(self, domid: int) -> object:
        return self.rig.host.create_domain(domid=domid)

    def enable_death(self, domid: int, user: int) -> None:
        evgen = self.rig.engine.evenable_domain_death(domid, user)
        self.evgens.append((self.rig.engine.evdisable_domain_death, evgen))

    def enable_eject(self, domid: int, vdev: str, user: int) -> None:
        if (domid, vdev) not in self.ejects:
            self.ejects.add((domid, vdev))
            evgen = self.rig.engine.evenable_disk_eject(domid, vdev, user)
            self.evgens.append((self.rig.engine.evdisable_disk_eject, evgen))

    def disable(self, place: int) -> None:
        if place < len(self.evgens):
            disable, evgen = self.evgens.pop(place)
            disable(evgen)

    def abort(self, place: int) -> None:
        if place < len(self.hows):
            self.rig.engine.ao_abort(self.hows[place])

    def check(self, typemask: int, skip: int) -> object:
        seen: list[object] = []

        def after_some(found: object) -> bool:
            seen.append(found)
            return len(seen) > skip

        found = self.rig.engine.event_check(typemask, after_some)
        if found is not None:
            self.taken.append(found)
        return found, seen

    def settle(self) -> None:
        self.rig.settle()

    def everything(self) -> tuple[list[Any], list[Any]]:
        return self.taken + self.rig.events(), self.listener.events


@pytest.mark.parametrize("drive", ["poll", "hooks"])
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(commands, min_size=10, max_size=60), typemask=masks)
def test_both_engines_give_the_same_events_in_the_same_order(
    script: list[tuple[Any, ...]],
    typemask: int,
    drive: Drive,
    served_host: tuple[RemoteHost, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served, variables = served_host
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    served.reset()
    with SimHost() as host:
        rigs = (
            Rig(host, lambda: EmbeddedEngine(host), "header", drive),
            Rig(served, LibxlEngine, "library", drive),
        )
        with rigs[0].cleanup, rigs[1].cleanup:
            embedded, libxl = (Actor(rig, typemask) for rig in rigs)
            for command in script:
                assert embedded.do(*command) == libxl.do(*command), command
            mine, theirs = embedded.everything(), libxl.everything()
            assert mine == theirs
            event(f"about {(len(mine[0]) + len(mine[1])) // 5 * 5} events")
