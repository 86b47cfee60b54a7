# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build what is booted: dom0's initramfs, and the two guests."""

from __future__ import annotations

import gzip
import lzma
import subprocess
from collections.abc import Mapping
from pathlib import Path

from realxen.parts import Parts

HERE = Path(__file__).parent
GUESTS = HERE / "guest"


def cpio(members: Mapping[str, bytes | None], executable: frozenset[str] = frozenset()) -> bytes:
    """Return a "newc" cpio archive, the form in which Linux takes an initramfs; None as content makes a directory."""
    archive = bytearray()
    entries = [*members.items(), ("TRAILER!!!", b"")]
    for inode, (name, content) in enumerate(entries, 1):
        mode = 0o040755 if content is None else 0o100755 if name in executable else 0o100644
        data = content or b""
        path = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        archive += bytes(-len(archive) % 4)
        archive += data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def _module(path: Path) -> bytes:
    """Debian 13 compresses its modules; busybox's insmod takes plain ones only."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    return data


def dom0_initramfs(parts: Parts) -> bytes:
    """The initramfs that loads the modules and makes the host's root dom0's own."""
    members: dict[str, bytes | None] = dict.fromkeys(("bin", "dev", "proc", "modules", "host", "upper", "root"))
    members["bin/busybox"] = parts.busybox.read_bytes()
    members["init"] = (HERE / "initramfs-init").read_bytes()
    for number, path in enumerate(parts.kernel_modules):
        members[f"modules/{number:03}-{path.name.split('.ko')[0]}.ko"] = _module(path)
    return gzip.compress(cpio(members, frozenset({"init", "bin/busybox"})), 1)


def linux_guest_initramfs(parts: Parts) -> bytes:
    """The initramfs of the guest that runs a real Linux."""
    members: dict[str, bytes | None] = dict.fromkeys(("bin", "sbin", "dev", "proc"))
    members["bin/busybox"] = parts.busybox.read_bytes()
    members["init"] = (GUESTS / "linux-init").read_bytes()
    # Linux runs this program when the toolstack asks it to power off (control/shutdown).
    members["sbin/poweroff"] = b"#!/bin/busybox sh\nexec /bin/busybox poweroff -f\n"
    return gzip.compress(cpio(members, frozenset({"init", "bin/busybox", "sbin/poweroff"})), 1)


def hypervisor(parts: Parts) -> bytes:
    """Xen's ELF image, uncompressed: QEMU's multiboot loader takes no other."""
    return gzip.decompress(parts.hypervisor.read_bytes())


def tiny_guest(target: Path) -> None:
    """Compile the guest that obeys orders and starts in no time."""
    # Nothing may be in it that needs a set-up which no one makes: no red zone (Xen pushes frames), no vector registers.
    flags = """-Wall -Wextra -Werror -O2 -std=gnu11 -m64 -ffreestanding -nostdlib -static -no-pie -fno-pic
        -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -mno-red-zone -mgeneral-regs-only
        -Wl,--build-id=none -Wl,-Ttext-segment=0x100000 -Wl,-z,noexecstack -Wl,-z,max-page-size=4096"""
    sources = (GUESTS / "tiny-start.S", GUESTS / "tiny.c")
    subprocess.run(["gcc", *flags.split(), "-o", target, *sources], check=True, timeout=60)
