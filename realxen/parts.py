# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find what the emulated machine is made of, or name the Debian packages that are missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MODULES = (
    "virtio_pci",
    "9p",
    "9pnet_virtio",
    "overlay",
    "xenfs",
    "xen-privcmd",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
)
"""Debian's kernel has these as modules: the root over 9p, the overlay above it, and what Xen's tools open in dom0."""

DOM0_TOOLS = ("bin/xenstored", "bin/xen-init-dom0", "bin/xenconsoled", "bin/xl")


class Missing(Exception):
    """Something is not installed or not readable; the text says what, and what to do."""


@dataclass(frozen=True)
class Parts:
    """The files on this host that the emulated machine is made of."""

    qemu: Path
    hypervisor: Path
    xen_tools: Path
    kernel: Path
    kernel_modules: tuple[Path, ...]
    busybox: Path


def find() -> Parts:
    """Return the newest usable Xen and kernel of this host.

    Raises `Missing`, listing every shortage at once.
    """
    missing: list[str] = []
    qemu = _program("qemu-system-x86_64", "qemu-system-x86", missing)
    _program("gcc", "gcc", missing)
    _program("xenstore-write", "xenstore-utils", missing)
    if not Path("/usr/include/xen/xen.h").exists():
        missing.append("/usr/include/xen/xen.h (package libxen-dev)")
    modprobe = _program("modprobe", "kmod", missing)
    busybox = _static_busybox(missing)
    xen = _newest_xen(missing)
    kernel = _newest_kernel(missing)
    if missing or not (qemu and modprobe and busybox and xen and kernel):
        raise Missing("the emulated Xen host can't be built, missing:\n  " + "\n  ".join(missing))
    hypervisor, xen_tools = xen
    vmlinuz, version = kernel
    for path in (hypervisor, vmlinuz):
        if not os.access(path, os.R_OK):
            raise Missing(f"{path} is not readable for this user: run as root, or make it readable")
    return Parts(qemu, hypervisor, xen_tools, vmlinuz, _module_files(modprobe, version), busybox)


def _program(name: str, package: str, missing: list[str]) -> Path | None:
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        missing.append(f"{name} (package {package})")
        return None
    return Path(found)


def _static_busybox(missing: list[str]) -> Path | None:
    for path in map(Path, ("/bin/busybox", "/usr/bin/busybox")):
        # An interpreter in the ELF headers means a dynamic program, which finds no loader in an initramfs.
        if path.exists() and b"/ld-linux" not in path.read_bytes()[:4096]:
            return path
    missing.append("a statically linked busybox (package busybox-static)")
    return None


def version_key(text: str) -> list[tuple[int, str]]:
    """Sort key under which 6.1.0-56 comes after 6.1.0-9."""
    return [(int(number or 0), word) for number, word in re.findall(r"(\d+)|(\D+)", text)]


def _newest_xen(missing: list[str]) -> tuple[Path, Path] | None:
    """The hypervisor and the tools must be of one release: the tools' hypercalls carry its version."""
    for image in sorted(Path("/boot").glob("xen-*-amd64.gz"), key=lambda p: version_key(p.name), reverse=True):
        release = image.name.removeprefix("xen-").removesuffix("-amd64.gz")
        tools = Path(f"/usr/lib/xen-{release}")
        if all((tools / tool).exists() for tool in DOM0_TOOLS):
            return image, tools
    missing.append(
        "/boot/xen-X.Y-amd64.gz and /usr/lib/xen-X.Y of the same release"
        " (on Debian 12: packages xen-hypervisor-4.17-amd64 and xen-utils-4.17)"
    )
    return None


def _newest_kernel(missing: list[str]) -> tuple[Path, str] | None:
    for image in sorted(Path("/boot").glob("vmlinuz-*"), key=lambda p: version_key(p.name), reverse=True):
        version = image.name.removeprefix("vmlinuz-")
        if Path("/lib/modules", version, "modules.dep").exists():
            return image, version
    missing.append("/boot/vmlinuz-VERSION with /lib/modules/VERSION (package linux-image-amd64)")
    return None


def _module_files(modprobe: Path, version: str) -> tuple[Path, ...]:
    """The module files that `MODULES` need, in the order in which they must be loaded; built-in ones have no file."""
    files: dict[Path, None] = {}
    for module in MODULES:
        result = subprocess.run(
            [modprobe, "-S", version, "-n", "--show-depends", module], capture_output=True, text=True, timeout=30
        )
        if result.returncode != 0:
            raise Missing(f"kernel {version} has no module {module}: {result.stderr.strip()}")
        files.update(
            (Path(word[1]), None)
            for line in result.stdout.splitlines()
            if len(word := line.split()) > 1 and word[0] == "insmod"
        )
    return tuple(files)
