# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every test may ask for: the things it can't do without, and a look at what it leaves behind."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gevent
import pytest
from click.testing import CliRunner, Result
from commands import Run
from distributions import Install
from leaks import Ledger, held
from preloading import preload_once, why_not
from programs import program
from requirements import Requirements
from worlds import World

import gxl
from gxl import cli
from gxl.cli import session
from gxl.hubhooks.poll import polls_by_libuv
from gxl.simhost import SimHost
from gxl.simhost.launch import launch
from gxl.simhost.remote import RemoteHost


def pytest_configure(config: pytest.Config) -> None:
    preload_once(config)


@pytest.fixture(scope="session")
def require() -> Requirements:
    """Asks for what a test can't do without: `require.library("xenlight")`, `require.program("gcc")`, …"""
    return Requirements()


@pytest.fixture(scope="session")
def served_host(require: Requirements) -> Iterator[tuple[RemoteHost, dict[str, str]]]:
    """A simulated host in a process of its own, and the environment in which libxenlight finds it."""
    require.library("xenlight")
    if reason := why_not():
        require.missing(f"libxenlight on a simulated host ({reason})")
    with launch() as (host, variables):
        yield host, variables


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module says by HUBS on which hubs its tests are to open Contexts; gevent's alone is the default."""
    if "world" in metafunc.fixturenames:
        hubs = getattr(metafunc.module, "HUBS", ("gevent",))
        if polls_by_libuv():
            hubs = tuple(hub for hub in hubs if hub != "poll")  # which refuses, as tests/test_hub_poll.py shows
        worlds = [(engine, hub) for hub in hubs for engine in ("embedded", "libxl")]
        names = [engine if hubs == ("gevent",) else f"{engine}-{hub}" for engine, hub in worlds]
        metafunc.parametrize("world", worlds, ids=names, indirect=True)


@pytest.fixture
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A simulated host, seen through each engine in turn."""
    engine, hub = request.param
    if engine == "embedded":
        from gxl.engines.embedded import EmbeddedEngine

        host = SimHost()
        world = World(host, lambda: EmbeddedEngine(host), hub)
        yield world
        world.close()
        host.close()
    else:
        from gxl.engines.libxl import LibxlEngine

        served, variables = request.getfixturevalue("served_host")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        served.reset()
        world = World(served, LibxlEngine, hub)
        yield world
        world.close()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts packages with entry points on the path: install("tidal", "gxl.hubhooks", tidal="tidal_loop:Hub")."""
    return Install(tmp_path, monkeypatch)


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `gxl …` on the world's host, in the main greenlet: others live on meanwhile."""

    def opened(engine: None, hub: None, **how: Any) -> gxl.Context:
        world.contexts.append(gxl.Context(world.engine, world.hub, **how))
        return world.contexts[-1]

    monkeypatch.setattr(session, "Context", opened)

    def run(*args: object) -> Result:
        with gevent.Timeout(10):
            return CliRunner().invoke(cli.main, [str(arg) for arg in args])

    return run


@pytest.fixture
def watching() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `gxl watch …` and waits until it watches."""
    processes = []

    def watching(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        process = program("watch", *arguments, **variables)
        processes.append(process)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("gxl: watching")
        return process

    yield watching
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()  # not read to its end: commands of --exec may have it open, too


@pytest.fixture
def unowned_sigchld() -> Iterator[None]:
    """Nobody catches SIGCHLD during the test, though gevent may have begun to in an earlier one."""
    libc = ctypes.CDLL(None)
    # Room for a struct sigaction. Python's own signal.signal can't put back a handler that is not Python's.
    before = ctypes.create_string_buffer(256)
    libc.sigaction(signal.SIGCHLD, None, before)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    libc.sigaction(signal.SIGCHLD, before, None)


@pytest.fixture
def leaves_nothing() -> Iterator[None]:
    """Fails a test that ends with fds or threads that it did not begin with.

    Ask for it before the fixtures that must clean up.
    """
    # A hub keeps the fds that it opens when it is first used.
    gevent.sleep(0)
    before = held()
    yield
    # In a patched process os.close only notes the fd; the hub closes it after it has slept.
    gevent.sleep(0.01)
    left = {what: name for what, name in held().items() if before.get(what) != name}
    assert not left, f"left behind: {left}"


_made_for_good: set[tuple[bool, str]] = set()


@pytest.fixture
def sealed(world: World) -> Iterator[Ledger]:
    """Fails a test after which something is left that `world` opened: fds, threads, children, greenlets, watchers.

    Contexts that the test left open are closed first. What a first Context makes for good is made before.
    """
    kind = (world.in_process, world.hub)
    if kind not in _made_for_good:
        _made_for_good.add(kind)
        first = world.open()
        domid = world.host.create_domain()
        first.domain_destroy(domid)  # from the first child on, the loop handles SIGCHLD
        world.close()
    ledger = Ledger()
    yield ledger
    world.close()
    left = ledger.surplus()
    assert not left, f"left behind: {left}"


def pytest_report_header() -> str:
    """What this run is about, as a bug report would need it."""
    engine = os.environ.get("GXL_ENGINE", "each test's own")
    loop = os.environ.get("GEVENT_LOOP", "gevent's default")
    library = ctypes.util.find_library("xenlight") or "none"
    return f"gxl: engine {engine}; libxenlight {library}; gevent {version('gevent')}, loop {loop}"
