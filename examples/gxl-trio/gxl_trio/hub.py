# SPDX-License-Identifier: LGPL-2.1-or-later
"""The factory that the entry point names."""

from __future__ import annotations

import trio
from zope.interface import implementer

from gxl.errors import MisuseError
from gxl.interfaces import IEventSink, IHub
from gxl_trio.binding import TrioBinding


@implementer(IHub)
class TrioHub:
    """The provider for trio programs."""

    name = "trio"

    @property
    def version(self) -> str:
        return f"trio {trio.__version__}"

    def attach(self, sink: IEventSink) -> TrioBinding:
        try:
            token = trio.lowlevel.current_trio_token()
        except RuntimeError:
            raise MisuseError("trio does not run here: open the Context in an async function") from None
        return TrioBinding(token, sink)
