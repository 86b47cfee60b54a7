# SPDX-License-Identifier: LGPL-2.1-or-later
"""One target under libFuzzer, in a process of its own: ``python -m fuzz.guided TARGET [options]``.

The options are libFuzzer's, which ends the process. Atheris rewrites gxl's modules when they are imported, so that each
branch that is taken for the first time is seen; nothing of gxl may be imported before.
"""

from __future__ import annotations

import logging
import sys

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]


class _Formatting(logging.Handler):
    """Formats each record, as a handler that writes would, and drops it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


def main(target: str, options: list[str]) -> None:
    logging.basicConfig(level=logging.DEBUG, handlers=[_Formatting()])
    logging.raiseExceptions = True
    for package in ("hypothesis", "pytest", "gevent"):
        assert package not in sys.modules, f"{package} is imported, and would be instrumented for nothing"
    with atheris.instrument_imports(include=["gxl"]):
        from fuzz import targets

        run = targets.load(target)
    atheris.Setup([f"fuzz {target}", *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
