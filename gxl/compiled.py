# SPDX-License-Identifier: LGPL-2.1-or-later
"""The compiled part, which does in C what has to be done for each event. Optional: gxl does all of it without, too.

`part` is the module gxl._compiled, or None: where it could not be built, in a subinterpreter, and where the environment
variable PURE_PYTHON says so, as it does to zope.interface and gevent; or where it was built of other sources. What is
in it:

* hold, let_go, held_from: what gxl.shield does, in two system calls instead of in sets of sixty numbers.
* Ordinary: the way of an event to the one who waits for it, for gxl.ordinary.
* Collector: how gxl.engines.libxl.events takes events off libxl, for the types that come by the thousand.

Its C knows nothing about libxl's data: where what is, it is told in numbers, which come from the declarations that
were proved.
"""

from __future__ import annotations

import os
from typing import Any

# Of which sources it has to be, by their digest: a checkout may have been changed since it was built there.
_SOURCES = "16085febbc32"


def _load() -> Any:
    if os.environ.get("PURE_PYTHON", "0") not in ("", "0"):
        return None
    try:
        import gxl._compiled as compiled  # type: ignore[import-not-found, import-untyped, unused-ignore]  # written in C, and not there where it was not built
    except ImportError:
        return None
    return compiled if getattr(compiled, "SOURCES", "") == _SOURCES else None


part: Any = _load()

form = "plain" if part is None else "compiled"
"""In one word, which of the two this is."""
