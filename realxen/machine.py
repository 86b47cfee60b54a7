# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the emulated machine: start QEMU, show what dom0 prints, return the command's exit status."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from realxen.parts import Parts

HYPERVISOR_MIB = 300
"""What is left to Xen's own heap, and the least that the guests of the tests get beside dom0."""

TAIL_LINES = 40


class MachineFailed(Exception):
    """The machine gave no verdict: it hung, panicked or did not start. The text ends with the console's last lines."""


@dataclass(frozen=True)
class Limits:
    """How long and how large: `timeout` in seconds for the whole life of the machine, `memory` in MiB."""

    timeout: float
    memory: int
    accel: str


class Files:
    """What one run keeps in its folder; `share` is the part that dom0 sees, writable, as /run/realxen."""

    def __init__(self, folder: Path) -> None:
        self.hypervisor = folder / "xen"
        self.initramfs = folder / "dom0-initramfs"
        self.console = folder / "console"
        self.share = folder / "share"
        self.guests = self.share / "guests"
        self.output = self.share / "output"
        self.status = self.share / "status"
        self.guests.mkdir(parents=True)
        self.console.touch()
        self.output.touch()

    def write_command(self, parts: Parts, command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
        """Write what dom0-init reads: where Xen's tools are, and what to run."""
        (self.share / "machine").write_text(f"xen_tools={shlex.quote(str(parts.xen_tools))}\n")
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
        run = f"cd {shlex.quote(str(cwd))} || exit 125\nexec {shlex.join(command)}\n"
        (self.share / "command").write_text(exports + run)


def qemu_command(parts: Parts, files: Files, limits: Limits) -> list[str]:
    """Return the command line of the emulated host; it has no disk, no network and no display."""
    dom0 = (limits.memory - HYPERVISOR_MIB) * 2 // 3
    return [
        # coreutils' timeout ends QEMU also where this program was killed and can't.
        "timeout",
        "--kill-after=5",
        str(int(limits.timeout) + 10),
        str(parts.qemu),
        "-accel",
        limits.accel,
        "-cpu",
        "host" if limits.accel == "kvm" else "qemu64",
        "-m",
        str(limits.memory),
        "-smp",
        "2",
        "-no-reboot",
        "-nodefaults",
        "-display",
        "none",
        "-chardev",
        f"file,id=console,path={_escaped(files.console)}",
        "-serial",
        "chardev:console",
        "-kernel",
        str(files.hypervisor),
        "-append",
        f"console=com1 com1=115200,8n1 dom0_mem={dom0}M,max:{dom0}M loglvl=warning sched=credit",
        "-initrd",
        f"{_escaped(parts.kernel)} console=hvc0 quiet panic=1,{_escaped(files.initramfs)}",
        "-virtfs",
        "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        "-virtfs",
        f"local,path={_escaped(files.share)},mount_tag=share,security_model=none,multidevs=remap",
    ]


def _escaped(path: Path) -> str:
    """A comma ends a value in QEMU's option syntax, a doubled one stands for itself."""
    return str(path).replace(",", ",,")


class Progress:
    """Stages with the seconds since the start, on standard error, so that they never mix into the command's output."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.stage = "starting QEMU"

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def __call__(self, stage: str) -> None:
        self.stage = stage
        print(f"realxen {self.seconds:6.1f} s  {stage}", file=sys.stderr, flush=True)


class Console:
    """The serial console's log, read as it grows."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._path = path
        self._file = path.open("rb")
        self._rest = b""
        self._progress = progress
        self._xen_seen = False
        self.failure: str | None = None

    def read(self) -> None:
        """Take what is new: stages are shown, a failure is remembered."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").strip()
            if not self._xen_seen and text.startswith("(XEN)"):
                self._xen_seen = True
                self._progress("Xen boots")
            if match := re.search(r"realxen: (stage|failed): (.*)", text):
                if match[1] == "stage":
                    self._progress(match[2])
                else:
                    self.failure = match[2]
            elif "Kernel panic" in text or "Panic on CPU" in text:
                self.failure = self.failure or text

    def tail(self) -> str:
        """The last lines, without empty ones and the terminal's control sequences."""
        text = self._path.read_text(errors="replace").replace("\r", "")
        lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc", "", text).splitlines() if line.strip()]
        return "\n".join(f"  | {line}" for line in lines[-TAIL_LINES:])

    def close(self) -> None:
        self._file.close()


def run(qemu: Sequence[str], files: Files, timeout: float, shown: BinaryIO, progress: Progress) -> int:
    """Run the machine until its command has ended and return that command's exit status.

    What the command prints goes to `shown` as it comes. Raises `MachineFailed` where there is no exit status after
    `timeout` seconds or when the machine has stopped; QEMU is never left behind.
    """
    progress("QEMU starts")
    console = Console(files.console, progress)
    process = subprocess.Popen(qemu, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    try:
        with files.output.open("rb") as output:
            while True:
                # Asked before reading: what was printed before the end is then read below, for certain.
                gone, done = process.poll() is not None, files.status.exists()
                console.read()
                if new := output.read():
                    shown.write(new)
                    shown.flush()
                if done:
                    return int(files.status.read_text())
                if gone:
                    said = process.stdout.read().decode(errors="replace")
                    raise _no_verdict(f"the machine stopped by itself; last stage: {progress.stage}", console, said)
                if progress.seconds > timeout:
                    raise _no_verdict(f"no end within {timeout:g} s; last stage: {progress.stage}", console)
                time.sleep(0.05)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        console.close()


def _no_verdict(text: str, console: Console, qemu_said: str = "") -> MachineFailed:
    parts = [text]
    if console.failure:
        parts.append(f"dom0 or Xen said: {console.failure}")
    if qemu_said.strip():
        parts.append(f"QEMU said: {qemu_said.strip()}")
    return MachineFailed("\n".join([*parts, "the console's last lines:", console.tail()]))
