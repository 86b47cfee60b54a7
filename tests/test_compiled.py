# SPDX-License-Identifier: LGPL-2.1-or-later
"""The compiled part beside what else a process may have: other interpreters, other threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from hashlib import sha256
from pathlib import Path

import pytest
from checkout import ROOT
from libxl_pump import Full, queued
from requirements import Requirements

from gxl import compiled
from gxl.engines.libxl import LibxlEngine
from gxl.events import Event

pytest_plugins = ["libxl_fixtures"]

INNER = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent.parent)!r}, *{sys.path!r}]
try:
    import gxl._compiled
except ImportError as error:
    print(error)
from gxl import compiled, shield
with shield.Shield():
    print(compiled.form)
"""
OUTER = f"""
import importlib, sys
name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
interpreters = importlib.import_module(name)
failed = interpreters.run_string(interpreters.create(), {INNER!r})
assert failed is None, failed
"""


def test_what_was_built_of_other_sources_is_passed_over(require: Requirements) -> None:
    require.module("gxl._compiled")
    show = "import gxl.compiled; print(gxl.compiled.form)"
    older = "import sys, types; sys.modules['gxl._compiled'] = types.SimpleNamespace(SOURCES='older'); "
    for code, form in ((show, "compiled"), (older + show, "plain")):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.strip() == form


def test_the_digest_is_that_of_the_sources() -> None:
    sources = [ROOT / "gxl" / name for name in ("_compiled.c", "_compiled.h", "_ordinary.c")]
    digest = sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    assert digest == compiled._SOURCES, f"gxl/compiled.py has to say {digest!r}, and ./test to build it anew"


def test_another_interpreter_goes_without(require: Requirements) -> None:
    require.module("gxl._compiled")
    done = subprocess.run([sys.executable, "-c", OUTER], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    refused, form = done.stdout.splitlines()
    assert "interpreter" in refused
    assert form == "plain"


def test_who_waits_for_libxls_lock_lets_python_run(
    engine: LibxlEngine, three_deaths: list[int], require: Requirements
) -> None:
    """A predicate runs with the lock held, in Python: to wait for the one with the other held would be for ever."""
    require.module("gxl._compiled")
    holds, main = threading.Event(), threading.get_ident()

    def waited_for(event: Event) -> bool:
        holds.set()
        while sys._current_frames()[main].f_code.co_name != "collect":
            pass
        return False

    other = threading.Thread(target=engine.event_check, kwargs={"predicate": waited_for})
    other.start()
    holds.wait()
    events: deque[Event] = deque()
    while engine.event_collect(events, 10):
        pass
    other.join()
    assert [event.domid for event in events] == three_deaths
    assert queued(engine) == []


def test_what_a_call_of_the_loop_could_not_take_for_lack_of_memory_it_takes_then(
    engine: LibxlEngine, three_deaths: list[int], require: Requirements
) -> None:
    require.module("gxl._compiled")
    events: deque[Event] = Full()
    engine.event_notify(lambda: None, events, 10)
    engine.osevent_afterpoll([])
    assert [event.domid for event in events] == three_deaths


@pytest.mark.parametrize("kind", ["wrong", "none", "another's"])
def test_a_class_that_keeps_things_elsewhere_is_refused(kind: str, require: Requirements) -> None:
    """Its slots are written to by their places: they have to be slots."""
    part = require.module("gxl._compiled")
    classes = {"wrong": property(), "none": None, "another's": vars(Event)["domid"]}
    event = type("Event", (), {"domid": classes[kind]})
    with pytest.raises(TypeError, match=r"Event\.domid is no slot"):
        part.Collector(1, 1, 1, 1, 1, (0, 0, 0, 0), (), (), (event, event, event), tuple(range(256)))
