# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pretend Xen host: domains, disks and xenstore, for tests and demonstrations on any machine.

`SimHost` lives in this process and is all that the embedded engine needs. It knows no event loop, and is never used
unless somebody asks for it.
"""

from gxl.simhost.connection import Connection
from gxl.simhost.domains import DomainInfo, Kind
from gxl.simhost.host import SimHost
from gxl.simhost.hypercalls import Hypercalls

__all__ = ["Connection", "DomainInfo", "Hypercalls", "Kind", "SimHost"]
