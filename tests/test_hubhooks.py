# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which hub provider is taken, and what happens to those that can't be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from gxl import hubhooks
from gxl.errors import GxlError, HubUnavailable
from gxl.interfaces import IHub

PLUGIN = """
from zope.interface import implementer
from gxl.interfaces import IHub

@implementer(IHub)
class Hub:
    name = "other"
    version = "1.0"
    def attach(self, sink):
        raise NotImplementedError

def fails():
    raise OSError("no such loop here")

def exits():
    raise SystemExit("a tide table is needed")
"""


@pytest.fixture(autouse=True)
def nothing_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GXL_HUB", raising=False)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a distribution "tidal" with these entry points, and the module `tidal_loop`."""

    def install(**providers: str) -> None:
        metadata = tmp_path / "tidal-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tidal\nVersion: 1.0\n")
        entries = "".join(f"{name} = {target}\n" for name, target in providers.items())
        (metadata / "entry_points.txt").write_text(f"[{hubhooks.GROUP}]\n{entries}")
        (tmp_path / "tidal_loop.py").write_text(PLUGIN)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "tidal_loop", raising=False)

    return install


def found(name: str, asked_for: str | None = None) -> hubhooks.Found:
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


def test_the_environment_decides_where_nobody_asks(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(other="tidal_loop:Hub")
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
    by_environment: bool, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(other="tidal_loop:Hub")
    if by_environment:
        monkeypatch.setenv("GXL_HUB", "gevnet")
    with pytest.raises(HubUnavailable, match=r"'gevnet'.*asyncio, gevent, other, poll") as caught:
        hubhooks.choose(None if by_environment else "gevnet")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, GxlError)


@pytest.mark.parametrize("name", [b"gevent", 3, object()])
def test_a_name_is_a_str(name: object) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        hubhooks.choose(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module:Hub", "ModuleNotFoundError.*no_such_module"),
        ("tidal_loop:Missing", "AttributeError.*Missing"),
        ("tidal_loop:fails", "OSError: no such loop here"),
        ("tidal_loop:exits", "SystemExit: a tide table is needed"),
        ("tidal_loop:PLUGIN", "AttributeError|TypeError"),
        ("builtins:object", "IHub"),
    ],
)
def test_a_broken_provider_is_named_and_hurts_nobody_else(
    target: str, reason: str, install: Callable[..., None]
) -> None:
    install(broken=target, other="tidal_loop:Hub")
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


def test_gxls_own_need_no_metadata_and_keep_their_names(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(gevent="tidal_loop:Hub")
    assert found("gevent").target == "gxl.hubhooks.gevent:GeventHub"
    monkeypatch.setattr(hubhooks, "entry_points", lambda group: ())
    assert hubhooks.choose("gevent").name == "gevent"


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
