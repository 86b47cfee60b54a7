# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds libxenlight, and loads it only if it is one that gxl knows."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

from gxl.engines.libxl import abi
from gxl.errors import EngineUnavailable


def build(builder: Any) -> Any:
    """What building the package makes of the declarations, made now: an ffi that is the same in a checkout.

    (`builder` would do by itself, but reads C types, and reports what is missing, otherwise than what was built.)
    """
    from cffi.recompiler import make_py_source

    source = io.StringIO()
    make_py_source(builder, "gxl.engines.libxl._declared", source)
    module: dict[str, Any] = {}
    exec(source.getvalue(), module)
    return module["ffi"]


def _declared() -> Any:
    # By import statements: what freezes an application includes only what it finds in these.
    try:
        from gxl.engines.libxl._declared import ffi  # type: ignore[import-not-found, unused-ignore]  # made when the package is built; a checkout has none
    except ModuleNotFoundError:
        from gxl.engines.libxl.declarations import ffibuilder

        return build(ffibuilder)
    return ffi


ffi: Any = _declared()
CData = Any
"""A C value. Pointers stay inside gxl.engines.libxl."""

libc: Any = ffi.dlopen(None)

OLDEST, NEWEST = 14, 22
"""The minor versions of Xen 4 whose libxl gxl knows. The library's soname carries them."""

VARIABLE = "GXL_LIBXENLIGHT"
"""The environment variable that names the library's file."""

_HYPERVISOR = Path("/sys/hypervisor")
_loaded: dict[str, Library] = {}


class Library:
    """A libxenlight that has been loaded and proved.

    `lib` is the library as cffi gives it; `version` names it for people; `dominfo_size` is its sizeof(libxl_dominfo);
    `base` is where it is mapped.
    """

    def __init__(self, lib: Any, path: str, base: int, minor: int | None, dominfo_size: int) -> None:
        self.lib = lib
        self.base = base
        self.dominfo_size = dominfo_size
        name = os.path.basename(os.path.realpath(path))
        self.version = f"{name} (libxl 4.{minor})" if minor is not None else f"{name} (libxl of an unknown release)"


def unavailable(message: str, attempts: list[tuple[str, str]]) -> EngineUnavailable:
    """The error of an engine that can't be had, with the way to the simulated host, which is never taken silently."""
    hint = "For a simulated host instead of the real one, ask for it: GXL_ENGINE=embedded."
    return EngineUnavailable(f"{message} {hint}", tuple(attempts))


def soname(minor: int) -> str:
    return f"libxenlight.so.4.{minor}"


def mapped_object(address: CData) -> tuple[str, int]:
    """The file that `address` is mapped from, and where; ("", 0) where the dynamic loader knows of none."""
    info = ffi.new("Dl_info *")
    if not libc.dladdr(ffi.cast("void *", address), info):
        return "", 0
    return os.fsdecode(ffi.string(info.fname)), int(ffi.cast("uintptr_t", info.fbase))


def running_minor() -> int | None:
    """The minor version of the Xen 4 that this machine runs on, or None."""
    try:
        if (_HYPERVISOR / "type").read_text().strip() != "xen":
            return None
        if int((_HYPERVISOR / "version/major").read_text()) != 4:
            return None
        return int((_HYPERVISOR / "version/minor").read_text())
    except (OSError, ValueError):
        return None


def load() -> Library:
    """The libxenlight to use; EngineUnavailable, listing what was tried, if there is none.

    $GXL_LIBXENLIGHT decides alone, if it is set. Otherwise the library of the running hypervisor's version comes
    first: libxl's hypercalls are bound to it. Then the newest that the dynamic loader finds.
    """
    if ffi.sizeof("void *") != 8:
        raise unavailable("gxl knows libxl's data on 64-bit machines only.", [])
    chosen = os.environ.get(VARIABLE)
    if chosen:
        attempts: list[tuple[str, str]] = []
        lib = _open(chosen, attempts)
        if lib is None:
            raise unavailable(f"The library that ${VARIABLE} names can't be loaded.", attempts)
        return _prove(chosen, lib)
    return _search()


def _search() -> Library:
    attempts: list[tuple[str, str]] = []
    known = list(range(NEWEST, OLDEST - 1, -1))
    running = running_minor()
    if running in known:
        known.remove(running)
        known.insert(0, running)
    for minor in known:
        lib = _open(soname(minor), attempts)
        if lib is not None:
            return _prove(soname(minor), lib)
    for minor in (*range(NEWEST + 1, NEWEST + 10), *range(OLDEST - 1, 0, -1)):
        lib = _open(soname(minor), [])
        if lib is not None:
            return _prove(soname(minor), lib)
    raise unavailable(
        f"libxenlight is not installed (Debian: libxenmisc…), or the dynamic loader can't find it: set ${VARIABLE} to "
        "its file.",
        attempts,
    )


def _open(name: str, attempts: list[tuple[str, str]]) -> Any:
    try:
        return ffi.dlopen(name)
    except OSError as error:
        attempts.append((name, str(error)))
        return None


def _prove(name: str, lib: Any) -> Library:
    try:
        path, base = mapped_object(ffi.addressof(lib, "libxl_ctx_alloc"))
    except ffi.error as error:
        raise unavailable(f"{name} is no libxenlight.", [(name, str(error))]) from error
    path = os.path.realpath(path)
    if path in _loaded:
        return _loaded[path]
    match = re.search(r"libxenlight\.so\.(\d+)\.(\d+)", f"{path} {name}")
    minor = int(match[2]) if match else None
    if match and (match[1] != "4" or not OLDEST <= int(match[2]) <= NEWEST):
        raise unavailable(
            f"{path} is of the wrong version: gxl knows libxl from Xen 4.{OLDEST} to 4.{NEWEST}.",
            [(name, f"version {match[1]}.{match[2]}")],
        )
    try:
        dominfo_size = abi.prove(ffi, lib, libc)
    except abi.Mismatch as error:
        raise unavailable(f"{path} lays its data out in a way that gxl does not know.", [(name, str(error))]) from error
    library = _loaded[path] = Library(lib, path, base, minor, dominfo_size)
    return library
