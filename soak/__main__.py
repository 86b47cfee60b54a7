# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command: ``python -m soak [options]``."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gxl.simhost.launch import launch

CHECKOUT = Path(__file__).resolve().parent.parent
ENGINES = ("embedded", "libxl")
ELSEWHERE = ("asyncio", "poll")
LOOPS = ("libev-cext", "libev-cffi", "libuv-cffi", *ELSEWHERE)
COMBINATIONS = [(engine, loop) for loop in LOOPS for engine in ENGINES]
# A round that has not ended by then hangs.
ROUND_LIMIT = 300.0
FOUND = 1


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m soak",
        allow_abbrev=False,
        description="Rounds of random domain life, storms, hostile guests, operations, forks, kills and xenstored's "
        "restarts, each in a process of its own, on each engine and loop in turn, until the time is over.",
        epilog=f"Exit status: 0, every invariant held; {FOUND}, one did not, and how to see it again is printed.",
    )
    add = parser.add_argument
    add("--seconds", type=float, default=300, help="no round begins after that (default: %(default)g)")
    add("--seed", type=int, default=None, help="of the first round; the first line says which")
    add("--rounds", type=int, default=None, help="end after so many rounds")
    add("--engine", choices=ENGINES, help="only this engine")
    add("--loop", choices=LOOPS, help="only this loop of gevent's, or this hub")
    add("--steps", type=int, default=150, help="random steps in a round (default: %(default)s)")
    options = parser.parse_args(argv)
    if not options.seconds > 0 or options.steps < 1 or (options.rounds is not None and options.rounds < 1):
        parser.error("--seconds, --steps and --rounds must be positive")
    return options


def _round(engine: str, loop: str, seed: int, steps: int) -> bool:
    """One round; whether every invariant held."""
    where = ["soak.elsewhere", loop] if loop in ELSEWHERE else ["soak.round"]
    command = [sys.executable, "-m", *where, engine, str(seed), str(steps)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    if loop not in ELSEWHERE:
        environment["GEVENT_LOOP"] = loop
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        if engine == "libxl":
            host, variables = stack.enter_context(launch())
            environment |= variables
            command.append(str(host.directory))
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=ROUND_LIMIT)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler says where it is
            said, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    took = time.monotonic() - began
    held = process.returncode == 0
    *rest, last = said.strip().splitlines() or [""]
    print(
        f"{'ok    ' if held else 'FAILED'} {engine:<8} {loop:<10} --seed {seed:<10} {took:5.1f} s  {last}", flush=True
    )
    if not held:
        print("\n".join(rest[-60:]))
        print(f"  python -m soak --rounds 1 --engine {engine} --loop {loop} --seed {seed} --steps {steps}", flush=True)
    return held


def main(argv: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    options = _arguments(argv)
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    wanted = [
        (engine, loop)
        for engine, loop in COMBINATIONS
        if options.engine in (None, engine) and options.loop in (None, loop)
    ]
    print(f"soak: {options.seconds:g} s, {len(wanted)} combinations of engine and loop, --seed {seed}", flush=True)
    end = time.monotonic() + options.seconds
    seeds = itertools.chain([seed], _more(seed))
    done = failed = 0
    with contextlib.suppress(KeyboardInterrupt):
        for (engine, loop), number in zip(itertools.cycle(wanted), seeds, strict=False):
            # Each combination has its turn, however little time there is.
            if (time.monotonic() >= end and done >= len(wanted)) or done == options.rounds:
                break
            done += 1
            failed += not _round(engine, loop, number, options.steps)
    print(f"soak: {done} rounds, {failed} failed")
    return FOUND if failed else 0


def _more(seed: int) -> itertools.chain[int]:
    chance = random.Random(seed)
    return itertools.chain.from_iterable([chance.randrange(2**31)] for _ in itertools.count())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
