# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one engine is made of."""

from __future__ import annotations

import warnings
from contextlib import ExitStack

from gxl.engines.embedded.building import Building
from gxl.engines.embedded.children import Children
from gxl.engines.embedded.core import Core
from gxl.engines.embedded.deaths import Deaths
from gxl.engines.embedded.ejects import Ejects
from gxl.engines.embedded.operations import Operations
from gxl.engines.embedded.store import Store
from gxl.errors import EngineUnavailable
from gxl.simhost import SimHost


class Ctx:
    """One libxl_ctx: every part of it, and no checks."""

    def __init__(self, host: SimHost | None) -> None:
        self.freed = True
        self.host = SimHost() if host is None else host
        self.owns_host = host is None
        with ExitStack() as opened:
            try:
                connection = self.host.connect()
                opened.callback(connection.close)
                self.core = Core()
                opened.callback(self.core.osevents.close)
                self.store = Store(self.core, connection)
                opened.callback(self.store.close)
            except OSError as error:
                raise EngineUnavailable("the simulated host can't be used", (("xenstored", str(error)),)) from error
            self.children = Children(self.core)
            self.deaths = Deaths(self.core, self.store, self.host)
            self.ejects = Ejects(self.core, self.store)
            self.operations = Operations(self.core, self.store, self.host, self.children)
            self.building = Building(self.operations)
            opened.pop_all()
        self.core.on_death = self.operations.fail_all
        self.freed = False

    @property
    def evgens(self) -> bool:
        return bool(self.deaths or self.ejects)

    def free(self) -> None:
        self.deaths.disable_all()
        self.ejects.disable_all()
        self.children.close()
        self.core.osevents.close()
        self.store.close()
        self.core.queue.clear()
        if self.owns_host:
            self.host.close()
        self.freed = True
        self.core.refusal = "the engine is closed: ctx_free has been called"

    def __del__(self) -> None:
        if not self.freed and not self.core.in_child:
            warnings.warn("an embedded engine was dropped without ctx_free", ResourceWarning, stacklevel=1)
