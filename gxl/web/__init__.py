# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's domains and their events in a browser, live: a WSGI application for servers that run on gevent.

Needs `pip install 'gxl[web]'`. `gxl serve` runs it; an application of one's own mounts `Application(ctx)`.
"""

from gxl.web.application import Application

__all__ = ["Application"]
