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


def write_share(share: Path, parts: Parts, command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
    """Fill the folder that dom0 sees, writable, as /run/realxen."""
    (share / "guests").mkdir()
    (share / "machine").write_text(f"xen_tools={shlex.quote(str(parts.xen_tools))}\n")
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    (share / "command").write_text(f"{exports}cd {shlex.quote(str(cwd))} || exit 125\nexec {shlex.join(command)}\n")
    (share / "output").touch()


def qemu_command(parts: Parts, images: Path, share: Path, console: Path, limits: Limits) -> list[str]:
    """Return the command line of the emulated host; it has no disk, no network and no display."""
    dom0 = (limits.memory - HYPERVISOR_MIB) * 2 // 3
    # A comma would end the value in QEMU's option syntax; doubling it is QEMU's own escape.
    kernel, initramfs, shared = (str(path).replace(",", ",,") for path in (parts.kernel, images / "dom0-initramfs", share))
    return [
        # coreutils' timeout ends QEMU also where this program was killed and can't.
        "timeout", "--kill-after=5", str(int(limits.timeout) + 10),
        str(parts.qemu), "-accel", limits.accel, "-cpu", "host" if limits.accel == "kvm" else "qemu64",
        "-m", str(limits.memory), "-smp", "2",
        "-no-reboot", "-nodefaults", "-display", "none", "-chardev", f"file,id=console,path={str(console).replace(',', ',,')}", "-serial", "chardev:console",
        "-kernel", str(images / "xen"),
        "-append", f"console=com1 com1=115200,8n1 dom0_mem={dom0}M,max:{dom0}M loglvl=warning sched=credit",
        "-initrd", f"{kernel} console=hvc0 quiet panic=1,{initramfs}",
        "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        "-virtfs", f"local,path={shared},mount_tag=share,security_model=none,multidevs=remap",
    ]


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
        path.touch()
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
        """The last lines, without the terminal's control sequences."""
        text = self._path.read_text(errors="replace").replace("\r", "")
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc", "", text).splitlines()
        return "\n".join(f"  | {line}" for line in lines[-TAIL_LINES:])

    def close(self) -> None:
        self._file.close()


def run(qemu: Sequence[str], share: Path, console_log: Path, limits: Limits, output: BinaryIO, progress: Progress) -> int:
    """Run the machine until its command has ended and return that command's exit status.

    What the command prints goes to `output` as it comes. Raises `MachineFailed` where there is no exit status; QEMU is
    never left behind.
    """
    progress("QEMU starts")
    console = Console(console_log, progress)
    status = share / "status"
    process = subprocess.Popen(qemu, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        with (share / "output").open("rb") as printed:
            while True:
                # Asked before reading: what was printed before the end is then read below, for certain.
                gone, done = process.poll() is not None, status.exists()
                console.read()
                if new := printed.read():
                    output.write(new)
                    output.flush()
                if done:
                    return int(status.read_text())
                if gone:
                    said = process.stdout.read().decode(errors="replace") if process.stdout else ""
                    raise MachineFailed(_verdict(f"the machine stopped without an exit status, after: {progress.stage}", console, said))
                if progress.seconds > limits.timeout:
                    raise MachineFailed(_verdict(f"no end within --timeout={limits.timeout:g} s; last stage: {progress.stage}", console))
                time.sleep(0.05)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()
        console.close()


def _verdict(text: str, console: Console, qemu_said: str = "") -> str:
    parts = [text]
    if console.failure:
        parts.append(f"dom0 or Xen said: {console.failure}")
    if qemu_said.strip():
        parts.append(f"QEMU said: {qemu_said.strip()}")
    return "\n".join([*parts, "the console's last lines:", console.tail()])
