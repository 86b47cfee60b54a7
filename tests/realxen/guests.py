# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real domains, started with xl and without its monitor, which would destroy them before the test has looked.

All that waits here does so cooperatively.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import gevent
from gevent import subprocess

XVDD = 51760
"""What xenstore calls the disk xvdd: 202 << 8 | 3 << 4."""


def run(*command: str) -> str:
    """What `command` prints. Raises AssertionError with all that it said if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=150)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return str(done.stdout)


@dataclass(frozen=True)
class Guest:
    """A paravirtual domain."""

    name: str
    domid: int
    uuid: UUID

    def order(self, order: str) -> None:
        """Let the tiny guest do something itself: "shutdown N", "fault" or "eject DEVID". Does not wait for it."""
        run("xenstore-write", f"/local/domain/{self.domid}/data/order", order)

    def said(self, text: str) -> None:
        """Wait until `text` has appeared on the guest's console."""
        log = _image(f"guest-{self.name}.log")
        while not (log.exists() and text in log.read_text(errors="replace")):
            gevent.sleep(0.05)

    def destroy(self) -> None:
        run("xl", "destroy", str(self.domid))


class Guests:
    """Starts domains and knows those that a test leaves behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tiny(self, *, disk: str | None = None, paused: bool = False) -> Guest:
        """Start the guest that obeys orders; see realxen/guest/tiny.c."""
        return self._start("tiny", 8, "", disk, paused)

    def linux(self) -> Guest:
        """Start a guest with dom0's own Linux kernel. Returns while it boots; then it says that it is ready."""
        extra = f'ramdisk = "{_image("linux-initramfs")}"\ncmdline = "quiet console=hvc0"\n'
        return self._start("linux-kernel", 192, extra, None, False)

    def configuration(self, kernel: str = "tiny") -> dict[str, Any]:
        """libxl's JSON for a guest of this kind: of what `xl create --dryrun` prints, the part that matters."""
        memory_kb = 1024 * (192 if kernel == "linux-kernel" else 8)
        b_info = {"max_memkb": memory_kb, "target_memkb": memory_kb, "max_vcpus": 1, "avail_vcpus": [0], "type.pv": {}}
        b_info["kernel"] = str(_image(kernel))
        if kernel == "linux-kernel":
            b_info |= {"ramdisk": str(_image("linux-initramfs")), "cmdline": "quiet console=hvc0"}
        identity = uuid4()
        return {
            "c_info": {"type": "pv", "name": f"{kernel}-{identity.hex[:8]}", "uuid": str(identity)},
            "b_info": b_info,
        }

    def _start(self, kernel: str, memory: int, extra: str, disk: str | None, paused: bool) -> Guest:
        identity = uuid4()
        name = f"{kernel}-{identity.hex[:8]}"
        config = self._folder / f"{name}.cfg"
        config.write_text(
            f'name = "{name}"\nuuid = "{identity}"\ntype = "pv"\nvcpus = 1\nmemory = {memory}\n'
            f'kernel = "{_image(kernel)}"\n{extra}' + (f'disk = ["{disk}"]\n' if disk else "")
        )
        run("xl", "create", "-e", *(["-p"] if paused else []), str(config))
        return Guest(name, int(run("xl", "domid", name)), identity)

    def destroy_all(self) -> None:
        """Destroy all domains but dom0, those too that a failed test left."""
        listed = [line.split()[:2] for line in run("xl", "list").splitlines()[1:]]
        # xl shows a domain that is being torn down without its name.
        left = [domid for name, domid in listed if domid != "0" and name != "(null)"]
        gevent.joinall([gevent.spawn(run, "xl", "destroy", domid) for domid in left], raise_error=True)


def _image(name: str) -> Path:
    return Path(os.environ["GXL_REALXEN"], "guests", name)
