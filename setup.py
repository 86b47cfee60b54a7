# SPDX-License-Identifier: LGPL-2.1-or-later
"""Only what setup.cfg can't say: what is compiled while the package is built.

The cffi declarations, without a compiler; and the optional part (gxl/compiled.py), which is left out where there is no
compiler, or no header of Python's.
"""

from hashlib import sha256
from pathlib import Path

from setuptools import Extension, setup

C = ["gxl/_compiled.c", "gxl/_compiled.h", "gxl/_ordinary.c"]
DIGEST = sha256(b"".join(Path(name).read_bytes() for name in C)).hexdigest()[:12]

setup(
    cffi_modules=["gxl/engines/libxl/declarations.py:ffibuilder"],
    # cffi begins this list for its module, and what setup.cfg says of it is then passed over.
    py_modules=["pytest_gxl"],
    ext_modules=[
        Extension(
            "gxl._compiled",
            [name for name in C if name.endswith(".c")],
            depends=[name for name in C if name.endswith(".h")],
            # gxl/compiled.py passes over what was built of other sources than its own.
            define_macros=[("GXL_SOURCES", f'"{DIGEST}"')],
            optional=True,
        )
    ],
)
