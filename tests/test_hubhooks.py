# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which hub provider is taken, and what happens to those that can't be."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from distributions import Install
from requirements import Requirements
from zope.interface.verify import verifyObject

import gxl
from gxl import hubhooks
from gxl.engines.embedded import EmbeddedEngine
from gxl.errors import GxlError, HubUnavailable
from gxl.interfaces import IHub
from gxl.plugins import Found


@pytest.fixture(autouse=True)
def nothing_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GXL_HUB", raising=False)


def found(name: str, asked_for: str | None = None) -> Found:
    return {entry.name: entry for entry in hubhooks.survey(asked_for)}[name]


def run(program: str) -> str:
    """What a fresh interpreter prints."""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_a_hub_is_chosen_by_its_name() -> None:
    hub = hubhooks.choose("gevent")
    verifyObject(IHub, hub)
    assert hub.name == "gevent"


def test_the_environment_decides_where_nobody_asks(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("tidal", "gxl.hubhooks", other="tidal_loop:Hub")
    monkeypatch.setenv("GXL_HUB", "other")
    assert hubhooks.choose().name == "other"
    assert found("other").chosen == "$GXL_HUB names it"
    assert found("gevent").chosen == ""
    assert hubhooks.choose("gevent").name == "gevent"
    assert found("gevent", "gevent").chosen == "asked for by name"
    monkeypatch.setenv("GXL_HUB", "")
    assert hubhooks.choose().name == hubhooks._detect()[0]


@pytest.mark.parametrize("by_environment", [False, True])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(
    by_environment: bool, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("tidal", "gxl.hubhooks", other="tidal_loop:Hub")
    if by_environment:
        monkeypatch.setenv("GXL_HUB", "gevnet")
    with pytest.raises(HubUnavailable, match=r"'gevnet'.*asyncio, gevent, other, poll") as caught:
        hubhooks.choose(None if by_environment else "gevnet")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, GxlError)


@pytest.mark.parametrize("name", [b"gevent", 3, object()])
def test_a_name_is_a_str(name: object) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        hubhooks.choose(name)  # type: ignore[arg-type]  # that it is refused is what is tested


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module:Hub", "ModuleNotFoundError.*no_such_module"),
        ("tidal_loop:Missing", "AttributeError.*Missing"),
        ("tidal_loop:fails", "OSError: no such loop here"),
        ("tidal_loop:exits", "SystemExit: a tide table is needed"),
        ("tidal_loop:speechless", "Unspeakable"),
        ("tidal_loop:PLUGIN", "AttributeError|TypeError"),
        ("tidal_loop:Hub:Hub", "ValueError: an entry point is written as module:factory, not as 'tidal_loop:Hub:Hub'"),
        ("builtins:object", "IHub"),
    ],
)
def test_a_broken_provider_is_named_and_hurts_nobody_else(target: str, reason: str, install: Install) -> None:
    install("tidal", "gxl.hubhooks", broken=target, other="tidal_loop:Hub")
    with pytest.raises(HubUnavailable, match=f"'broken' \\({target}, from tidal\\) can't be used.*({reason})"):
        hubhooks.choose("broken")
    assert hubhooks.choose("other").name == "other"
    assert hubhooks.choose().name == hubhooks._detect()[0]
    survey = {entry.name: entry for entry in hubhooks.survey()}
    assert survey.keys() >= {"asyncio", "broken", "gevent", "other", "poll"}
    assert list(survey) == sorted(survey)
    assert "can't be used" in survey["broken"].problem
    assert survey["broken"].chosen == ""
    assert (survey["other"].problem, survey["other"].origin) == ("", "tidal")
    assert survey["poll"].description == "The provider for programs without a loop."
    assert survey["poll"].version.startswith("poll(2)")
    assert (survey["gevent"].problem, survey["gevent"].origin) == ("", "gxl")


def test_a_provider_that_fails_as_no_exception_does_is_named_by_the_survey_and_hurts_nobody_else(
    install: Install,
) -> None:
    install("tidal", "gxl.hubhooks", broken="tidal_loop:panics", other="tidal_loop:Hub")
    assert found("broken").problem == "Panic: the moon is gone"
    assert found("other").problem == ""


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("tidal_loop:FailsLate", "'late' can't be used here: RuntimeError: no water"),
        ("tidal_loop:BindsNothing", "'nothing' can't be used: its attach.* returned None"),
    ],
)
def test_a_provider_that_fails_when_it_is_attached_is_named_and_leaves_no_engine_open(
    target: str, reason: str, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("tidal", "gxl.hubhooks", tidal=target)
    freed: list[object] = []
    free = EmbeddedEngine.ctx_free
    monkeypatch.setattr(EmbeddedEngine, "ctx_free", lambda engine: (freed.append(engine), free(engine)))
    with pytest.raises(HubUnavailable, match=reason):
        gxl.Context(engine="embedded", hub="tidal")
    assert len(freed) == 1


@pytest.mark.parametrize("hub", [IHub, hubhooks, 7, b"poll"])
def test_what_is_neither_a_hub_nor_a_name_is_refused(hub: object) -> None:
    with pytest.raises(TypeError, match=f"provides IHub, not {re.escape(repr(hub))}"):
        gxl.Context(engine="embedded", hub=hub)  # type: ignore[arg-type]  # that it is refused is what is tested


def test_looking_for_a_hub_imports_no_loop() -> None:
    program = (
        "import sys; from gxl import hubhooks; print(hubhooks._detect()[0], *sorted("
        "{'gevent', 'greenlet', 'asyncio'} & set(sys.modules)))"
    )
    assert run(program) == "poll"


NO_LOOP = "no event loop was found running: whichever thread waits does the work"


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("", NO_LOOP),
        ("import asyncio, gevent.monkey", NO_LOOP),
        ("import gevent; gevent.get_hub()", NO_LOOP),
        ("import gevent; g = gevent.spawn(print)", "this thread runs a gevent hub"),
        ("import gevent; gevent.sleep(0)", "this thread runs a gevent hub"),
        ("from gevent import monkey; monkey.patch_all()", "gevent has patched this process"),
        ("from gevent import monkey; monkey.patch_time()", "gevent has patched this process"),
        ("import asyncio; asyncio.new_event_loop().close()", NO_LOOP),
    ],
)
def test_the_running_code_decides_where_nobody_says_anything(before: str, reason: str) -> None:
    program = f"{before}\nfrom gxl import hubhooks\nprint(*[f.chosen for f in hubhooks.survey() if f.chosen])"
    assert run(program) == reason


@pytest.mark.parametrize("loop", ["libev-cext", "libev-cffi", "libuv-cffi"])
def test_a_server_that_was_started_before_the_hub_first_ran_is_work_for_gevent_on_each_loop(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEVENT_LOOP", loop)
    program = """
import gevent.server
from gxl import hubhooks
gevent.get_hub()
before = hubhooks._detect()[0]
server = gevent.server.StreamServer(("127.0.0.1", 0), print)
server.start()
print(before, hubhooks._detect()[0])
"""
    assert run(program) == "poll gevent"


@pytest.mark.parametrize(
    ("before", "names"),
    [
        ("pass", "poll asyncio"),
        ("import uvloop; uvloop.install()", "poll asyncio"),
        ("import gevent; gevent.sleep(0)", "poll asyncio"),
        ("from gevent import monkey; monkey.patch_all()", "gevent gevent"),
    ],
)
def test_a_thread_beside_a_loop_has_none(before: str, names: str, require: Requirements) -> None:
    require.module("uvloop")
    program = f"""
{before}
import asyncio, threading
from gxl import hubhooks
def beside():
    print(hubhooks._detect()[0], end=" ")
async def main():
    thread = threading.Thread(target=beside)
    thread.start()
    thread.join()
    print(hubhooks._detect()[0])
asyncio.run(main())
"""
    assert run(program) == names


@pytest.mark.parametrize(
    ("before", "name"),
    [
        ("pass", "asyncio"),
        ("import gevent; gevent.sleep(0)", "asyncio"),
        ("from gevent import monkey; monkey.patch_all()", "gevent"),
    ],
)
def test_in_a_running_asyncio_loop_it_is_asyncio_unless_gevent_has_patched_the_process(before: str, name: str) -> None:
    program = f"""
{before}
import asyncio
from gxl import hubhooks
async def main():
    print(hubhooks._detect()[0])
asyncio.run(main())
"""
    assert run(program) == name
