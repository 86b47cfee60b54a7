# SPDX-License-Identifier: LGPL-2.1-or-later
"""How Sphinx builds the documentation: `.venv/bin/sphinx-build -W docs docs/_build/html`. It fetches nothing."""

import ast
import inspect
from importlib.metadata import version as version_of

from zope.interface.interface import InterfaceClass

from gxl import interfaces
from gxl.interfaces import engine, hooks, hub

project = "gxl"
version = release = version_of("gxl")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "repoze.sphinx.autointerface"]
exclude_patterns = ["_build"]

# What makes a heading's address on a forge makes it here, too.
myst_heading_anchors = 3

# What a docstring has in single backticks is code.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"

# Every name in a signature leads somewhere, but for what others document.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(asyncio|collections|contextlib|enum|os|pathlib|socket|types|typing|uuid)\..*"),
    ("py:.*", "UUID|Any|AbstractContextManager|Awaitable|Callable|Iterator|Sequence|deque"),
    # What the suites' cases get: theirs alone.
    ("py:class", r"gxl\.testing\.\w+\.rig\..*"),
]

html_theme = "furo"
html_title = f"gxl {version}"
html_show_copyright = False
html_copy_source = False


def show_interfaces_whole() -> None:
    """zope.interface forgets annotations, and its interfaces don't look like classes where they are annotations."""
    for room in (engine, hooks, hub):
        for node in ast.parse(inspect.getsource(room)).body:
            found = getattr(room, getattr(node, "name", ""), None)
            if isinstance(found, InterfaceClass) and isinstance(node, ast.ClassDef):
                found.__qualname__ = node.name
                found.__ibmodule__ = interfaces.__name__  # where a user finds it
                for member in node.body:
                    if isinstance(member, ast.FunctionDef):
                        returns = ast.unparse(member.returns) if member.returns else "None"
                        signature = f"({ast.unparse(member.args)}) -> {returns}"
                        found[member.name].getSignatureString = lambda signature=signature: signature


show_interfaces_whole()
