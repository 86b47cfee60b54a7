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
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TOP, env=environment
        )
        if cpu is not None:
            os.sched_setaffinity(self._process.pid, {cpu})
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
    def client(self, candidate: str, kind: str, domains: int, per_byte: int, tick: bool = False) -> Iterator[Run]:
        """A client that has enabled its evgens."""
        self._host.ask(f"domains {domains}")
        environment = self._environment | ({"GXL_BENCH_TICK": "1"} if tick else {})
        client = Process(self.command_of(candidate, kind, domains, per_byte), self.cpus[1], environment)
        try:
            yield Run(client, client if candidate == "embedded" else self._host, domains)
        finally:
            client.stop()

    def system_calls(self, candidate: str, rounds: int) -> int:
        """How many system calls the client makes, in all, for so many ejects."""
        with tempfile.NamedTemporaryFile("r") as counts:
            self._host.ask("domains 1")
            command = ["strace", "-f", "-c", "-o", counts.name, *self.command_of(candidate, "eject", 1, 1)]
            client = Process(command, None, self._environment)
            self._host.ask(f"eject {rounds} 1")
            client.stop()
            found = re.search(r"^100\.00 .*?(\d+)(?: +\d+)? total$", counts.read(), re.MULTILINE)
        if found is None:
            raise Failed("strace counted nothing")
        return int(found[1])

    def stop(self) -> None:
        self._host.stop()


class Run:
    """One client under way, and the host that drives it."""

    def __init__(self, client: Process, host: Process, domains: int) -> None:
        self._client = client
        self._host = host
        self.domains = domains

    def command(self, line: str) -> list[int]:
        """Make something happen; how long each round took, in nanoseconds."""
        return [int(nanoseconds) for nanoseconds in self._host.ask(line).split()]

    def report(self) -> dict[str, Any]:
        """What the client has used."""
        used: dict[str, Any] = {"pause": 0.0, "opened": 0.0} | json.loads(self._client.ask("report"))
        return used
