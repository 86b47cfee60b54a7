# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command: ``python -m realxen [options] [pytest arguments]``."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from realxen import images, machine, parts

CHECKOUT = Path(__file__).resolve().parent.parent
MEMORY_MIB = 1536
NO_VERDICT = 125
"""The exit status where nothing can be said of the tests: no machine, or one that died or hung."""


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m realxen",
        allow_abbrev=False,
        usage="python -m realxen [options] [pytest arguments]",
        description="Boot Debian's Xen with a Debian dom0 under emulation and run pytest in dom0, on tests/realxen "
        "where the arguments name no other file.",
        epilog=f"The exit status is the command's own; {NO_VERDICT} where the machine gave none.",
    )
    add = parser.add_argument
    add("--timeout", type=float, default=1800, metavar="SECONDS", help="for the whole run (default: %(default)g)")
    add("--memory", type=int, default=2048, metavar="MIB", help="of the emulated host (default: %(default)s)")
    add("--accel", choices=("tcg", "kvm"), default="tcg", help="tcg, the default, emulates and works anywhere")
    add("--shell", metavar="COMMAND", help="run this in dom0 instead of pytest")
    add("--keep-log", type=Path, metavar="FILE", help="leave the serial console's log here")
    options, rest = parser.parse_known_args(argv)
    if not options.timeout > 0:
        parser.error(f"--timeout must be positive, not {options.timeout:g}")
    if options.memory < MEMORY_MIB:
        parser.error(f"--memory must be at least {MEMORY_MIB}, not {options.memory}: dom0 and a Linux guest need it")
    if options.shell is not None and rest:
        parser.error(f"--shell takes no pytest arguments: {shlex.join(rest)}")
    return options, rest


def _command(options: argparse.Namespace, pytest_arguments: list[str]) -> list[str]:
    if options.shell is not None:
        return ["sh", "-c", options.shell]
    # A test that hangs shows where, while the machine's own time limit could only say that it did.
    settings = ["-p", "no:cacheprovider", "-o", "testpaths=tests/realxen", "-o", "faulthandler_timeout=200"]
    return [sys.executable, "-m", "pytest", *settings, *pytest_arguments]


def _environment() -> dict[str, str]:
    passed = ("CI", "COLUMNS", "GEVENT_LOOP", "GXL_LIBXENLIGHT", "PYTEST_ADDOPTS", "PYTHONPATH")
    return {name: os.environ[name] for name in passed if name in os.environ} | {
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        # Says to the tests that this dom0 was made for them: on anybody else's they don't run.
        "GXL_REALXEN": "/run/realxen",
    }


def _boot(options: argparse.Namespace, command: list[str], files: machine.Files) -> int:
    progress = machine.Progress()
    found = parts.find()
    progress(f"building from {found.hypervisor.name} and {found.kernel.name}")
    files.hypervisor.write_bytes(images.hypervisor(found))
    files.initramfs.write_bytes(images.dom0_initramfs(found))
    images.tiny_guest(files.guests / "tiny")
    (files.guests / "linux-kernel").symlink_to(found.kernel)
    (files.guests / "linux-initramfs").write_bytes(images.linux_guest_initramfs(found))
    shutil.copy(images.HERE / "dom0-init", files.share)
    files.write_command(found, command, CHECKOUT, _environment())
    qemu = machine.qemu_command(found, files, machine.Limits(options.timeout, options.memory, options.accel))
    try:
        status = machine.run(qemu, files, options.timeout, sys.stdout.buffer, progress)
    finally:
        if options.keep_log is not None:
            shutil.copyfile(files.console, options.keep_log)
    progress(f"exit status {status}")
    return status


def main(argv: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    options, pytest_arguments = _arguments(argv)
    # As an exception, SIGTERM ends QEMU and removes the folder too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="gxl-realxen-") as folder:
            return _boot(options, _command(options, pytest_arguments), machine.Files(Path(folder)))
    except (parts.Missing, machine.MachineFailed) as problem:
        print(f"realxen: {problem}", file=sys.stderr)
        return NO_VERDICT
    except KeyboardInterrupt:
        print("realxen: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
