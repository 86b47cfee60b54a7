# SPDX-License-Identifier: LGPL-2.1-or-later
"""Discovery, which hubs and engines share: what can be chosen by name, and what becomes of packages that are broken."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from distributions import Install

import gxl
from gxl import engines, hubhooks, plugins
from gxl.errors import EngineUnavailable, HubUnavailable

ROOT = Path(__file__).parent.parent

# What is asked, by the entry point group; what is offered there in these tests; and the error that says no.
KINDS: dict[str, tuple[ModuleType, str, type[Exception]]] = {
    "gxl.hubhooks": (hubhooks, "tidal_loop:Hub", HubUnavailable),
    "gxl.engines": (engines, "gxl.engines.embedded.engine:EmbeddedEngine", EngineUnavailable),
}


@pytest.fixture(autouse=True)
def nothing_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GXL_HUB", raising=False)
    monkeypatch.delenv("GXL_ENGINE", raising=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[gxl.hubhooks]\nno equals sign here\n", "TypeError"),
        (b"[console_scripts]\nnor here\n", "TypeError"),
        (b"\xff\xfe[gxl.hubhooks]\n", "UnicodeDecodeError"),
    ],
)
@pytest.mark.parametrize("group", KINDS)
def test_a_package_whose_entry_points_cannot_be_read_is_named_and_hurts_nobody_else(
    group: str, text: bytes, reason: str, install: Install
) -> None:
    choose, target, unavailable = KINDS[group]
    install("tidal", group, other=target)
    install.raw("torn", text, "Metadata-Version: 2.1\nName: torn\n")
    choose.choose("other")
    assert reason in plugins.unreadable()["torn"]
    assert {found.name: found.problem for found in choose.survey()}["other"] == ""
    with pytest.raises(unavailable, match=f"'missing'.*known are: .*other.*; the entry points of torn .*{reason}"):
        choose.choose("missing")
    gxl.Context(engine="embedded", hub="poll").close()


@pytest.mark.parametrize("metadata", [None, "", "Metadata-Version: 2.1\n"])
def test_a_package_without_a_name_is_named_by_its_place(metadata: str | None, install: Install, tmp_path: Path) -> None:
    install.raw("torn", b"[gxl.hubhooks]\nno equals sign here\n", metadata)
    install.raw("bare", b"[gxl.hubhooks]\nbare = tidal_loop:Hub\n", metadata)
    assert f"a package without a name in {tmp_path / 'torn'}" in plugins.unreadable()
    (found,) = (found for found in hubhooks.survey() if found.name == "bare")
    assert found.origin == f"a package without a name in {tmp_path / 'bare'}"
    assert hubhooks.choose("bare").version == "1.0"


@pytest.mark.parametrize("target", ["", ":", "tidal loop", "tidal_loop:Hub:Hub", "tidal_loop:Hub [nosuch"])
@pytest.mark.parametrize("group", KINDS)
def test_a_target_that_is_none_is_the_problem_of_its_name_alone(group: str, target: str, install: Install) -> None:
    choose, right, unavailable = KINDS[group]
    install("tidal", group, odd=target, other=right)
    choose.choose("other")
    with pytest.raises(unavailable, match="'odd'"):
        choose.choose("odd")
    survey = {found.name: found for found in choose.survey()}
    assert survey["odd"].problem
    assert survey["other"].problem == ""


@pytest.mark.parametrize("group", KINDS)
def test_two_packages_that_offer_one_name_are_both_named_and_neither_is_guessed(group: str, install: Install) -> None:
    choose, target, unavailable = KINDS[group]
    install("ebb", group, tide=target, ebb=target)
    install("flood", group, tide="no_such_module:Tide")
    with pytest.raises(unavailable, match=r"several packages offer 'tide' .*from (ebb|flood).*from (ebb|flood)"):
        choose.choose("tide")
    choose.choose("ebb")
    clashing = [found for found in choose.survey("tide") if found.name == "tide"]
    assert {found.origin for found in clashing} == {"ebb", "flood"}
    assert all("several packages" in found.problem and not found.chosen for found in clashing)


@pytest.mark.parametrize(("group", "name"), [("gxl.hubhooks", "poll"), ("gxl.engines", "embedded")])
def test_gxls_own_keep_their_names(group: str, name: str, install: Install) -> None:
    choose, target, _ = KINDS[group]
    install("usurper", group, **{name: target})
    choose.choose(name)
    found = {found.origin: found for found in choose.survey(name) if found.name == name}
    assert (found["gxl"].problem, found["gxl"].chosen) == ("", "asked for by name")
    assert "gxl's own has that name" in found["usurper"].problem
    assert found["usurper"].chosen == ""


def test_the_first_of_two_installations_of_a_package_counts_as_it_does_for_imports(install: Install) -> None:
    install("Tidal_Loop", "gxl.hubhooks", tide="no_such_module:Old")
    install("tidal.loop", "gxl.hubhooks", tide="tidal_loop:Hub")
    assert hubhooks.choose("tide").version == "1.0"


def test_gxls_own_are_found_without_asking_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> Any:
        raise AssertionError("the installed packages were looked at")

    monkeypatch.setattr(plugins, "distributions", never)
    for name in ("gevent", "asyncio", "poll"):
        assert hubhooks.choose(name).name == name
    assert hubhooks.choose()
    for name in ("libxl", "embedded"):
        assert callable(engines.choose(name))


def test_doctor_outlives_every_kind_of_broken_package_and_says_what_is_wrong(install: Install) -> None:
    install(
        "tidal",
        "gxl.hubhooks",
        gone="no_such_module:Hub",
        exits="tidal_loop:exits",
        late="tidal_loop:FailsLate",
        sound="tidal_loop:Hub",
        poll="tidal_loop:Hub",
    )
    install("ebb", "gxl.hubhooks", sound="tidal_loop:FailsLate")
    install("reefs", "gxl.engines", shallow="tidal_loop:fails", none="builtins:object")
    install.raw("torn", b"[gxl.hubhooks]\nno equals sign here\n", "Metadata-Version: 2.1\nName: torn\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(install.places), "GXL_ENGINE": "embedded"}

    def doctor(hub: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "gxl", "doctor"]
        where = environment | {"GXL_HUB": hub}
        ran = subprocess.run(command, cwd=ROOT, env=where, capture_output=True, text=True, timeout=60, check=False)
        assert ran.stderr == ""
        return ran.returncode, ran.stdout

    status, said = doctor("poll")
    assert status == 0, said
    assert "hub poll is in force: $GXL_HUB names it" in said
    for line in (
        "hub gone is not in force: it can't be used (it comes from tidal)",
        "No module named 'no_such_module'",
        "SystemExit: a tide table is needed",
        "hub sound is not in force: it can't be used (it comes from ebb)",
        "several packages offer 'sound'",
        "gxl's own has that name",
        "OSError: no such loop here",
        "which provides no IEngine",
        "what torn offers is not known, since its entry points can't be read: TypeError",
    ):
        assert line in said, said
    for hub, reason in (
        ("late", "no Context can be opened: the hub 'late' can't be used here: RuntimeError: no water"),
        ("gone", "no Context can be opened, as said above"),
        ("sound", "no Context can be opened: there is no hub provider 'sound': several packages offer 'sound'"),
        ("nosuch", "no Context can be opened: there is no hub provider 'nosuch': known are: asyncio,"),
    ):
        status, said = doctor(hub)
        assert status == 1, said
        assert reason in said, said


PROGRAM = """
import sys
from importlib import metadata
import gxl
from gxl import engines, hubhooks
assert {marker!r} in gxl.__file__, gxl.__file__
try:
    print(metadata.version("gxl"))
except metadata.PackageNotFoundError:
    print("no metadata")
print(*[f"{{found.name}} from {{found.origin}}{{found.problem}}" for found in hubhooks.survey()])
for hub in ("gevent", "poll"):
    with gxl.Context(engine="embedded", hub=hub) as ctx:
        domid = ctx.engine.host.create_domain()
        ctx.evenable_domain_death(domid)
        ctx.engine.host.destroy_domain(domid)
        print(hub, ctx.event_wait(timeout=10))
"""


def packed(target: Path, **files: str) -> Path:
    """A zip of the package gxl, its metadata left out, and these files."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted((ROOT / "gxl").rglob("*.py")):
            archive.write(path, path.relative_to(ROOT))
        for name, text in files.items():
            archive.writestr(f"{name}.py", text)
    return target


def test_in_a_zipapp_without_metadata_gxls_own_are_found(tmp_path: Path) -> None:
    app = packed(tmp_path / "app.pyz", __main__=PROGRAM.format(marker="app.pyz"))
    lines = run_apart(app, tmp_path).splitlines()
    assert lines[:2] == ["no metadata", "asyncio from gxl gevent from gxl poll from gxl"]
    assert [line.split()[0] for line in lines[2:]] == ["gevent", "poll"]


def test_in_a_checkout_on_the_path_gxls_own_are_found(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "gxl").symlink_to(ROOT / "gxl")
    (checkout / "__main__.py").write_text(PROGRAM.format(marker="checkout"))
    lines = run_apart(checkout, tmp_path).splitlines()
    assert lines[:2] == ["no metadata", "asyncio from gxl gevent from gxl poll from gxl"]
    assert [line.split()[0] for line in lines[2:]] == ["gevent", "poll"]


def run_apart(program: Path, tmp_path: Path) -> str:
    """Run a program with the packages that gxl needs on its path, but no metadata of anything."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(click.__file__).parents[1].iterdir():
        # An editable installation of gxl would put its metadata there.
        if entry.suffix not in (".dist-info", ".egg-info", ".pth") and "__editable__" not in entry.name:
            (packages / entry.name).symlink_to(entry)
    code = "import sys, runpy; sys.path[:0] = sys.argv[1:3]; runpy.run_path(sys.argv[1], run_name='__main__')"
    # -S: without the directory in which packages, and so their metadata, are installed.
    command = [sys.executable, "-S", "-E", "-c", code, str(program), str(packages)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
