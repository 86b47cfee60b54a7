# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prints docs/interfaces.md, the reference, from gxl/interfaces.py:

python docs/generate_interfaces.py > docs/interfaces.md
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "gxl" / "interfaces.py"


def reference() -> str:
    """The whole document."""
    tree = ast.parse(SOURCE.read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    interfaces = {node.name for node in classes if node.name.startswith("I")}
    lines = ["# The interfaces", "", "Generated from gxl/interfaces.py by docs/generate_interfaces.py.", ""]
    lines += [cleandoc(ast.get_docstring(tree) or ""), ""]
    for node in classes:
        if node.name in interfaces:
            lines += _interface(node)
    return "\n".join(lines).rstrip() + "\n"


def _interface(node: ast.ClassDef) -> Iterator[str]:
    bases = [ast.unparse(base) for base in node.bases if ast.unparse(base) != "Interface"]
    yield f"## {node.name}{f' (also {bases[0]})' if bases else ''}"
    yield ""
    yield ast.get_docstring(node) or ""
    yield ""
    for member in node.body:
        match member:
            case ast.FunctionDef():
                returns = ast.unparse(member.returns) if member.returns else "None"
                yield f"### `{member.name}({ast.unparse(member.args)}) -> {returns}`"
                yield ""
                yield ast.get_docstring(member) or ""
                yield ""
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(args=[ast.Constant(value=str(text))])):
                yield f"### `{name}`"
                yield ""
                yield cleandoc(text)
                yield ""


if __name__ == "__main__":
    print(reference(), end="")
