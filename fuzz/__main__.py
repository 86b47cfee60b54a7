# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command: ``python -m fuzz [options] [target ...]``."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import random
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fuzz import keeping, targets

CHECKOUT = Path(__file__).resolve().parent.parent
LONGEST_INPUT = 4096
# One input may take so long, and all of them together so much memory, before that counts as a hang, or as growth.
SECONDS_PER_INPUT = 20
MEMORY_MIB = 700
FOUND, NO_VERDICT = 1, 125
# What libFuzzer says besides what happened; the input itself is in a file.
_NOISE = ("INFO:", "WARNING:", "stat::", "MS:", "0x", "\\", "Base64:", "artifact_prefix=", "#")
_PROGRESS = re.compile(r"#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    names = "\n".join(f"  {name:<20} {targets.about(name)}" for name in targets.NAMES)
    parser = argparse.ArgumentParser(
        prog="python -m fuzz",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fuzz what guests and clients can send, guided by the code that each input reaches.",
        epilog=f"targets:\n{names}\n\nExit status: 0, nothing was found; {FOUND}, something was, and how to see it\n"
        f"again is printed; {NO_VERDICT}, nothing can be said.",
    )
    add = parser.add_argument
    add("targets", nargs="*", metavar="target", help="what to fuzz (default: everything)")
    add("--seconds", type=float, default=300, help="for all targets together (default: %(default)g)")
    add("--seed", type=int, default=None, help="the first line says which; the same seed makes the same inputs")
    add("--keep", action="store_true", help="add to fuzz/corpus the inputs that reach what it does not reach yet")
    add("--replay", type=Path, metavar="FILE", help="only run the one target with this input, and let it raise")
    options = parser.parse_args(argv)
    for name in options.targets:
        if name not in targets.NAMES:
            parser.error(f"no target is called {name!r}; there are {', '.join(targets.NAMES)}")
    if options.replay is not None and len(options.targets) != 1:
        parser.error("--replay needs the one target that the input is for")
    if not options.seconds > 0:
        parser.error(f"--seconds must be positive, not {options.seconds:g}")
    if options.seed is not None and not 0 < options.seed < 2**31:
        parser.error(f"--seed must be from 1 to {2**31 - 1}, not {options.seed}")
    return options


def _begin(folder: Path, seed: int) -> None:
    """Write inputs to begin with besides the corpus: long ones, which a fuzzer comes to late by itself."""
    chance = random.Random(seed)
    for number in range(8):
        (folder / f"begin-{number}").write_bytes(chance.randbytes(2 ** (number + 3)))


def _fuzz(name: str, seconds: float, seed: int, found: Path, keep: bool) -> bool:
    """Fuzz one target; whether nothing was found."""
    with tempfile.TemporaryDirectory(prefix="gxl-fuzz-") as folder:
        fresh, kept = Path(folder), targets.CORPUS / name
        kept.mkdir(exist_ok=True)
        _begin(fresh, seed)
        command = [
            *(sys.executable, "-m", "fuzz.guided", name, f"-seed={seed}", f"-max_total_time={max(1, round(seconds))}"),
            *(f"-timeout={SECONDS_PER_INPUT}", f"-rss_limit_mb={MEMORY_MIB}", f"-max_len={LONGEST_INPUT}"),
            *("-len_control=0", "-print_final_stats=1", f"-artifact_prefix={found}/{name}-", folder, str(kept)),
        ]
        said: list[str] = []
        progress: tuple[str, ...] = ("0", "0", "0", "0")
        with subprocess.Popen(
            command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as run:
            assert run.stdout is not None
            for line in run.stdout:
                said = [*said[-200:], line]
                if match := _PROGRESS.match(line):
                    progress = match.groups()
                    if sys.stdout.isatty():
                        print(f"\r{_summary(name, progress)}\x1b[K", end="", flush=True)
        if sys.stdout.isatty():
            print("\r\x1b[K", end="")
        if run.returncode:
            print("".join(line for line in said if not line.startswith(_NOISE)), end="")
            print(f"FOUND {_summary(name, progress)}")
            for artifact in sorted(found.glob(f"{name}-*")):
                print(f"  python -m fuzz {name} --replay {artifact}")
            print(f"  or all of it again: python -m fuzz {name} --seconds {seconds:g} --seed {seed}", flush=True)
            return False
        print(f"ok    {_summary(name, progress)}", flush=True)
        if keep:
            logging.getLogger().addHandler(logging.NullHandler())
            print(f"      {keeping.keep(targets.load(name), fresh.iterdir(), kept)} of them are kept", flush=True)
        return True


def _summary(name: str, progress: tuple[str, ...]) -> str:
    runs, branches, features, corpus = progress
    return f"{name:<20} {runs:>8} inputs  {branches:>5} branches  {features:>5} features  {corpus:>4} in the corpus"


def main(argv: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    options = _arguments(argv)
    if options.replay is not None:
        targets.load(options.targets[0])(options.replay.read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: atheris is missing: pip install 'gxl[fuzz]', on a Python that it is built for", file=sys.stderr)
        return NO_VERDICT
    seed = options.seed or secrets.randbelow(2**31 - 1) + 1
    wanted = options.targets or targets.NAMES
    print(f"fuzz: {len(wanted)} targets, {options.seconds:g} s in all, --seed {seed}", flush=True)
    found = Path(tempfile.mkdtemp(prefix="gxl-fuzz-found-"))
    try:
        clean = [_fuzz(name, options.seconds / len(wanted), seed, found, options.keep) for name in wanted]
    except KeyboardInterrupt:
        print("fuzz: interrupted", file=sys.stderr)
        return 130
    finally:
        if not any(found.iterdir()):
            shutil.rmtree(found)
    return 0 if all(clean) else FOUND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
