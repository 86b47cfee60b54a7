# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python -m stress`: the long form. Prints a seed first and figures last; fails where a promise is broken."""

from __future__ import annotations

import argparse
import os
import random
import sys

from gxl.simhost import preload
from stress.flood import flood
from stress.outage import outage
from stress.place import ENGINES, place
from stress.storm import storm

_MARK = "GXL_STRESS_PRELOADED"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stress", description=__doc__)
    parser.add_argument("--engine", choices=ENGINES, default="embedded")
    parser.add_argument("--domains", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=120, help="how long the flood lasts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    if options.engine == "libxl" and _MARK not in os.environ:
        environment = os.environ | {"LD_PRELOAD": str(preload.library()), _MARK: "1"}
        os.execve(sys.executable, [sys.executable, "-m", "stress", *sys.argv[1:]], environment)
    print(f"seed {options.seed}, engine {options.engine}", flush=True)
    for name, run in (
        ("storm", lambda there: storm(there, options.domains, options.seed)),
        ("outage", lambda there: outage(there, options.domains, options.seed)),
        ("flood", lambda there: flood(there, options.domains, options.seed, options.seconds)),
    ):
        with place(options.engine) as there:
            print(f"{name}: {run(there)}", flush=True)


if __name__ == "__main__":
    main()
