# SPDX-License-Identifier: LGPL-2.1-or-later
"""A gxl hook provider for trio: the example of "Write a hook provider".

Open a Context by `async with gxl.Context(hub="trio") as ctx:`. Whatever waits is awaited; the blocking forms raise
MisuseError. Callbacks run in system tasks of trio's, and may be coroutine functions.

What it can't do: block; be used after trio.run() has returned, not even to close; and report what nobody can catch
elsewhere than in the log, since trio has no error handler.
"""

from gxl_trio.binding import TrioBinding
from gxl_trio.hub import TrioHub

__all__ = ["TrioBinding", "TrioHub"]
