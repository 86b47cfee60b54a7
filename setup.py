# SPDX-License-Identifier: LGPL-2.1-or-later
"""Only what setup.cfg can't say: what is compiled while the package is built.

The cffi declarations, without a compiler; and the optional part (gxl/compiled.py), which is left out where there is no
compiler, or no header of Python's.
"""

from setuptools import Extension, setup

setup(
    cffi_modules=["gxl/engines/libxl/declarations.py:ffibuilder"],
    # cffi begins this list for its module, and what setup.cfg says of it is then passed over.
    py_modules=["pytest_gxl"],
    ext_modules=[
        Extension(
            "gxl._compiled",
            ["gxl/_compiled.c", "gxl/_ordinary.c"],
            depends=["gxl/_compiled.h"],
            optional=True,
        )
    ],
)
