# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python -m gxl.simhost DIRECTORY` serves a new simulated host in DIRECTORY until standard input ends."""

from __future__ import annotations

import signal
import sys

from gxl.simhost.server import Server


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} DIRECTORY")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    server = Server(sys.argv[1])
    server.watch_stdin()
    print("ready", flush=True)
    server.run()


if __name__ == "__main__":
    main()
