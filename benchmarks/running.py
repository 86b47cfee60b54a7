# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds and runs the host and the clients, each on a CPU of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOP = HERE.parent


EJECTS = 100
# % time, seconds, usecs/call, calls, perhaps errors, and the system call's name.
_COUNTED = re.compile(r"^ *\d+\.\d+ +\d+\.\d+ +\d+ +(\d+) (?: *\d+)? +(?!total$)(\w+)$", re.MULTILINE)


class Failed(Exception):
    """Something that was to be measured does not run."""


def build(directory: Path) -> None:
    """Compile what is written in C into `directory`."""
    for name, options in (
        ("host", []),
        ("client", ["-lxenlight", "-lxentoollog"]),
        ("hypervisor", ["-shared", "-fPIC", "-ldl"]),
    ):
        source = HERE / "native" / f"{name}.c"
        command = ["cc", "-O2", "-o", str(directory / name), str(source), *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise Failed("there is no C compiler (Debian: gcc libc6-dev)") from None
        if done.returncode:
            raise Failed(f"{source.name} can't be compiled (Debian: libxen-dev): {done.stderr.strip()}")


class Process:
    """A program that is asked by lines and answers by lines."""

    def __init__(self, command: list[str], cpu: int | None, environment: dict[str, str] | None = None) -> None:
        self._name = " ".join(command[:4])
        mine = os.sched_getaffinity(0)
        # Inherited: whatever it starts at once, as strace does, is there with it.
        os.sched_setaffinity(0, mine if cpu is None else {cpu})
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TOP, env=environment
            )
        finally:
            os.sched_setaffinity(0, mine)
        if self.read() != "ready":
            self.stop()
            raise Failed(f"{self._name} did not start")

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"{self._name} has ended, with status {self._process.wait()}")
        return line.strip()

    def stop(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


class Bench:
    """The host, and what clients need in order to find it."""

    def __init__(self, directory: Path) -> None:
        build(directory)
        cpus = sorted(os.sched_getaffinity(0))
        self.cpus = (cpus[0], cpus[-1]) if len(cpus) > 1 else (None, None)
        self._directory = directory
        self._host = Process([str(directory / "host"), str(directory)], self.cpus[0])
        self._environment = {
            **os.environ,
            "XENSTORED_RUNDIR": str(directory),
            "XENSTORED_PATH": str(directory / "socket"),
            "LD_PRELOAD": str(directory / "hypervisor"),
            "GXL_BENCH_DOMAINS": str(directory / "domains"),
        }

    def command_of(self, candidate: str, kind: str, domains: int, per_byte: int) -> list[str]:
        """What starts a client."""
        arguments = [str(self._directory), kind, str(domains), str(per_byte)]
        if candidate == "C":
            return [str(self._directory / "client"), *arguments]
        return [sys.executable, "-m", "benchmarks.clients", candidate, *arguments]

    @contextmanager
    def client(self, candidate: str, kind: str, domains: int, per_byte: int) -> Iterator[Run]:
        """A client that has enabled its evgens."""
        self._host.ask(f"domains {domains}")
        client = Process(self.command_of(candidate, kind, domains, per_byte), self.cpus[1], self._environment)
        try:
            run = Run(client, client if candidate == "embedded" else self._host, domains, candidate)
            # To answer, C has to go through its loop once; the others have done so before they were ready.
            run.report()
            yield run
        finally:
            client.stop()

    def system_calls(self, candidate: str) -> dict[str, float]:
        """How many system calls of each kind the client makes for an eject.

        All of those for some ejects, and for some more: what a process needs to start and to end is in both.
        """
        few, many = (self._system_calls(candidate, ejects) for ejects in (EJECTS, 2 * EJECTS))
        return {name: (count - few.get(name, 0)) / EJECTS for name, count in many.items()}

    def _system_calls(self, candidate: str, ejects: int) -> dict[str, int]:
        with tempfile.NamedTemporaryFile("r") as counts:
            self._host.ask("domains 1")
            command = ["strace", "-f", "-c", "-o", counts.name, *self.command_of(candidate, "eject", 1, 1)]
            client = Process(command, self.cpus[1], self._environment)
            self._host.ask(f"eject {ejects} 1")
            client.stop()
            found = {name: int(count) for count, name in _COUNTED.findall(counts.read())}
        if not found:
            raise Failed("strace counted nothing")
        return found

    def stop(self) -> None:
        self._host.stop()


class Run:
    """One client under way, and the host that drives it."""

    def __init__(self, client: Process, host: Process, domains: int, candidate: str) -> None:
        self._client = client
        self._host = host
        self.domains = domains
        self.candidate = candidate

    def command(self, line: str) -> list[int]:
        """Make something happen; how long each round took, in nanoseconds."""
        return [int(nanoseconds) for nanoseconds in self._host.ask(line).split()]

    def observe(self) -> bool:
        """From now on the client notes its loop's pauses and libxl's calls, which takes its time. False: it can't."""
        if self.candidate == "C":
            return False
        self._client.ask("observe")
        self.report()
        return True

    def count(self) -> None:
        """From now on the client counts what functions are called for an event, and takes much longer for it."""
        self._client.ask("count")

    def report(self) -> dict[str, Any]:
        """What the client has used."""
        used: dict[str, Any] = json.loads(self._client.ask("report"))
        return used
