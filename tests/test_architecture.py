# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules of the house: who may import whom, and what a room looks like.

To add a room, say in ROOMS whom it may import. To move a wall, change ROOMS, and say why in the commit.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LEAVES = (
    "gxl.interfaces",
    "gxl.events",
    "gxl.drafts",
    "gxl.errors",
    "gxl.arguments",
    "gxl.compiled",
    "gxl.forking",
    "gxl.plugins",
    "gxl.shield",
    "gxl.unpatched",
)
# What a Context is made of. Only here do engines and hubs meet, and through their front doors only.
CONTEXT = (
    *(
        "gxl.context",
        "gxl.pump",
        "gxl.feeds",
        "gxl.mailbox",
        "gxl.callbacks",
        "gxl.sidechannel",
        "gxl.domains",
        "gxl.whose",
    ),
    *("gxl.operations", "gxl.expect", "gxl.watcher", "gxl.watching", "gxl.following", "gxl.waiting"),
    *("gxl.toolstack", "gxl.building", "gxl.closing", "gxl.polling", "gxl.metrics", "gxl.arrivals"),
    *(
        "gxl.evgens",
        "gxl.reign",
        "gxl.recovery",
        "gxl.opening",
        "gxl.floods",
        "gxl.stamps",
        "gxl.ordinary",
        "gxl.leaving",
        "gxl.names",
        "gxl.identity",
        "gxl.affected",
    ),
)
FRONT_DOORS = ("gxl.engines=", "gxl.hubhooks=")
# A room is a module, or a package with all that is in it; the nearest entry counts. It may import itself and these. A
# name with "=" is the package's __init__ alone.
ROOMS: dict[str, tuple[str, ...]] = {
    "gxl=": (*LEAVES, *CONTEXT, "gxl.simhost="),
    "gxl.interfaces": LEAVES,
    "gxl.events": ("gxl.jsonvalues",),
    "gxl.drafts": ("gxl.events",),
    "gxl.jsonvalues": (),
    "gxl.errors": (),
    "gxl.arguments": ("gxl.events",),
    # In C, and optional.
    "gxl.compiled": ("gxl._compiled",),
    "gxl.forking": (),
    "gxl.plugins": ("gxl.errors",),
    "gxl.shield": ("gxl.compiled", "gxl.forking"),
    "gxl.unpatched": (),
    "gxl.xenstore": (),
    "gxl.recording": ("gxl.events",),
    "gxl.eventqueue": LEAVES,
    "gxl.simhost": (*LEAVES, "gxl.xenstore"),
    "gxl.engines=": (*LEAVES, "gxl.engines.libxl=", "gxl.engines.embedded="),
    "gxl.engines.libxl": (*LEAVES, "gxl.xenstore"),
    "gxl.engines.embedded": (*LEAVES, "gxl.xenstore", "gxl.eventqueue", "gxl.simhost"),
    "gxl.hubhooks": LEAVES,
    **dict.fromkeys(CONTEXT, (*LEAVES, *CONTEXT, *FRONT_DOORS, "gxl.xenstore", "gxl.eventqueue", "gxl.builder")),
    "gxl.builder": (*LEAVES, "gxl.engines="),
    "gxl.prometheus": ("gxl.context", "gxl.events"),
    "gxl.web": (*LEAVES, *CONTEXT, "gxl.engines.embedded=", "gxl.hubhooks.gevent", "gxl.prometheus", "gxl.simhost="),
    "gxl.testing": ("gxl",),
    "gxl.cli": ("gxl=", "gxl.recording", *LEAVES, *CONTEXT, *FRONT_DOORS, "gxl.simhost", "gxl.web"),
    "gxl.__main__": ("gxl.cli",),
}
# Who alone may import what others made.
STRANGERS: dict[str, tuple[str, ...]] = {
    "cffi": ("gxl.engines.libxl",),
    "gevent": ("gxl.hubhooks.gevent", "gxl.hubhooks.switching", "gxl.web"),
    "greenlet": ("gxl.hubhooks.gevent", "gxl.hubhooks.switching"),
    "asyncio": ("gxl.hubhooks.asyncio",),
    "click": ("gxl.cli",),
    "prometheus_client": ("gxl.prometheus", "gxl.web"),
    "werkzeug": ("gxl.web",),
    "pytest": ("gxl.testing",),
    "hypothesis": ("gxl.testing",),
    "ctypes": (),
    "tests": (),
    "realxen": (),
    "fuzz": (),
    "examples": (),
}
# Rooms without input and output of any kind.
IO = {"socket", "select", "selectors", "subprocess", "asyncio", "threading", "signal"}
SILENT = ("gxl.interfaces", "gxl.events", "gxl.errors", "gxl.arguments", "gxl.xenstore", "gxl.eventqueue")
# Where a file outgrows this, two rooms are hidden in it.
LINES = 450


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted((ROOT / "gxl").rglob("*.py"))}
PACKAGES = {name for name, path in SOURCES.items() if path.name == "__init__.py"}


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Every module that the module `name` imports, wherever in its text, with the line."""
    for node in ast.walk(ast.parse(SOURCES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{SOURCES[name]}:{node.lineno}: write absolute imports"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in SOURCES else node.module


def within(name: str, room: str) -> bool:
    return name == room[:-1] if room.endswith("=") else name == room or name.startswith(f"{room}.")


def room_of(name: str) -> str | None:
    return max((room for room in ROOMS if within(name, room)), key=len, default=None)


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_imports_only_whom_it_may(name: str) -> None:
    room = room_of(name)
    assert room is not None, f"{name} is in no room: add it to ROOMS in {Path(__file__).name}, with whom it may import"
    wrong = [
        f"{SOURCES[name]}:{line}: {name} must not import {target}: the room {room} may import "
        f"{', '.join(ROOMS[room]) or 'nothing of gxl'}"
        for line, target in imports(name)
        if within(target, "gxl") and not any(within(target, allowed) for allowed in (room, *ROOMS[room]))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_imports_of_strangers_only_what_is_its_own(name: str) -> None:
    wrong = [
        f"{SOURCES[name]}:{line}: only {' and '.join(STRANGERS[top]) or 'nobody in gxl'} may import {top}"
        for line, target in imports(name)
        if (top := target.partition(".")[0]) in STRANGERS and not any(within(name, room) for room in STRANGERS[top])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", [name for name in SOURCES if any(within(name, room) for room in SILENT)])
def test_a_silent_room_does_no_input_or_output(name: str) -> None:
    wrong = [f"{SOURCES[name]}:{line}: {name} does no I/O" for line, target in imports(name) if target in IO]
    assert not wrong, "\n".join(wrong)


def test_engines_and_hubhooks_never_meet() -> None:
    # The table above could be changed by mistake; this can't.
    for name in SOURCES:
        for line, target in imports(name):
            for here, there in (("gxl.engines", "gxl.hubhooks"), ("gxl.hubhooks", "gxl.engines")):
                assert not (within(name, here) and within(target, there)), (
                    f"{SOURCES[name]}:{line}: engines and hubhooks meet only in a Context, through gxl.interfaces"
                )


def test_every_module_is_reached_by_import_statements_as_what_freezes_an_application_follows_them() -> None:
    reached: set[str] = set()
    todo = ["gxl", "gxl.testing", "gxl.__main__", "gxl.simhost.__main__"]
    while todo:
        name = todo.pop()
        if name in SOURCES and name not in reached:
            reached.add(name)
            todo += [name.rpartition(".")[0], *(target for _, target in imports(name))]
    assert not SOURCES.keys() - reached


def test_every_room_of_the_table_exists() -> None:
    stale = [room for room in ROOMS if not any(within(name, room) for name in SOURCES)]
    assert not stale, f"ROOMS names what is not there: {stale}"


@pytest.mark.parametrize("name", SOURCES)
def test_a_room_is_small_and_named_after_what_it_is(name: str) -> None:
    lines = len(SOURCES[name].read_text().splitlines())
    assert lines <= LINES, f"{name} has {lines} lines: it wants a second room"
    assert SOURCES[name].stem.strip("_") not in {"utils", "util", "helpers", "common", "misc", "base"}


def test_hub_providers_have_no_ancestors_among_themselves() -> None:
    own: dict[str, str] = {}
    bases: list[tuple[str, str]] = []
    for name in SOURCES:
        if within(name, "gxl.hubhooks"):
            for node in ast.walk(ast.parse(SOURCES[name].read_text())):
                if isinstance(node, ast.ClassDef):
                    own[node.name] = name
                    bases += [(node.name, ast.unparse(base).rpartition(".")[2]) for base in node.bases]
    ladder = [f"{own[cls]}.{cls} inherits from {own[base]}.{base}" for cls, base in bases if base in own]
    assert not ladder, "\n".join(ladder)


def test_every_file_names_its_licence_first() -> None:
    trees = [ROOT / tree for tree in ("gxl", "tests", "realxen", "fuzz", "soak", "examples", "benchmarks")]
    files = [ROOT / "setup.py", *(path for tree in trees for path in tree.rglob("*.py"))]
    # cffi writes the compiled declarations itself, next to their source.
    lacking = [
        str(path)
        for path in files
        if "SPDX-License-Identifier: LGPL-2.1-or-later" not in "".join(path.read_text().splitlines(True)[:2])
        and not path.name.startswith("_")
    ]
    assert not lacking, f"no licence line: {lacking}"


IMPORT_GXL = """
import os, sys, threading
def held():
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd != str(listing))
listing = os.open("/", os.O_RDONLY)
os.close(listing)
before = held(), threading.active_count()
import gxl
assert (held(), threading.active_count()) == before, (before, held())
loops = {"gevent", "asyncio", "greenlet", "cffi", "_cffi_backend", "click"} & sys.modules.keys()
assert not loops, loops
"""


def test_importing_gxl_imports_no_event_loop_and_opens_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{IMPORT_GXL}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
