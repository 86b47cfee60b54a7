# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pytest plugin, installed with gxl: the fixture `simhost`.

It is a module of its own, outside gxl, since pytest imports it in every run: gxl is imported only when a test asks for
the fixture, and so after a conftest that patches the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gxl import SimHost


@pytest.fixture
def simhost(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimHost]:
    """A simulated Xen host of this test's own, on which every Context that does not name an engine is opened.

    So a program that says `gxl.Context()` or `gxl.watch()` runs unchanged, without Xen.
    """
    from gxl import SimHost
    from gxl.engines.embedded import EmbeddedEngine

    with SimHost() as host:
        monkeypatch.setattr(EmbeddedEngine, "default_host", host)
        monkeypatch.setenv("GXL_ENGINE", "embedded")
        yield host
