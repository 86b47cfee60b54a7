# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command: ``python -m realxen [options] [pytest arguments]``."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from realxen import images, machine, parts

CHECKOUT = Path(__file__).resolve().parent.parent
NO_VERDICT = 125
"""The exit status where nothing can be said of the tests: no machine, or one that died or hung."""


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m realxen", allow_abbrev=False, usage="python -m realxen [options] [pytest arguments]",
        description="Boot Debian's Xen with a Debian dom0 under emulation and run pytest inside dom0 (by default on tests/realxen).",
        epilog="The exit status is the command's own; 125 where the machine gave none.")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS", help="for the whole run (default: %(default)g)")
    parser.add_argument("--memory", type=int, default=2048, metavar="MIB", help="of the emulated host (default: %(default)s)")
    parser.add_argument("--accel", choices=("tcg", "kvm"), default="tcg", help="tcg emulates and works anywhere (the default)")
    parser.add_argument("--shell", metavar="COMMAND", help="run this in dom0 instead of pytest")
    parser.add_argument("--keep-log", type=Path, metavar="FILE", help="leave the serial console's log here")
    options, rest = parser.parse_known_args(argv)
    if options.timeout <= 0:
        parser.error(f"--timeout must be positive, not {options.timeout:g}")
    if options.memory < 1536:
        parser.error(f"--memory must be at least 1536, not {options.memory}: dom0 and two Linux guests need it")
    if options.shell is not None and rest:
        parser.error(f"--shell takes no pytest arguments: {' '.join(rest)}")
    return options, rest


def _command(options: argparse.Namespace, pytest_arguments: list[str]) -> list[str]:
    if options.shell is not None:
        return ["sh", "-c", options.shell]
    if not any(Path(argument.split("::")[0]).exists() for argument in pytest_arguments):
        pytest_arguments = [str(CHECKOUT / "tests" / "realxen"), *pytest_arguments]
    # A test that hangs shows where, while the machine's own time limit could only say that it did.
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=90", *pytest_arguments]


def _environment() -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items()
              if name in ("CI", "PYTHONPATH", "PYTEST_ADDOPTS", "COLUMNS") or name.startswith("GXL_")}
    return passed | {"HOME": "/root", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
                     "GXL_REALXEN": "/run/realxen"}


def main(argv: Sequence[str]) -> int:
    options, pytest_arguments = _arguments(argv)
    limits = machine.Limits(options.timeout, options.memory, options.accel)
    # SIGTERM must end QEMU and remove the folder too, so it is turned into an exception.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    progress = machine.Progress()
    try:
        found = parts.find()
        with tempfile.TemporaryDirectory(prefix="gxl-realxen-") as folder:
            top = Path(folder)
            share = top / "share"
            share.mkdir()
            progress(f"building from {found.hypervisor.name} and {found.kernel.name}")
            (top / "xen").write_bytes(images.hypervisor(found))
            (top / "dom0-initramfs").write_bytes(images.dom0_initramfs(found))
            shutil.copy(images.HERE / "dom0-init", share)
            machine.write_share(share, found, _command(options, pytest_arguments), Path.cwd(), _environment())
            (share / "guests" / "linux-kernel").symlink_to(found.kernel)
            (share / "guests" / "linux-initramfs").write_bytes(images.linux_guest_initramfs(found))
            images.tiny_guest(share / "guests" / "tiny")
            console = top / "console"
            try:
                status = machine.run(machine.qemu_command(found, top, share, console, limits), share, console, limits, sys.stdout.buffer, progress)
            finally:
                if options.keep_log is not None and console.exists():
                    shutil.copyfile(console, options.keep_log)
            progress(f"exit status {status}")
            return status
    except (parts.Missing, machine.MachineFailed) as problem:
        print(f"realxen: {problem}", file=sys.stderr)
        return NO_VERDICT
    except KeyboardInterrupt:
        print("realxen: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
