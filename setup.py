# SPDX-License-Identifier: LGPL-2.1-or-later
"""Only what setup.cfg can't say: the cffi declarations are compiled, without a compiler, while the package is built."""

from setuptools import setup

setup(
    cffi_modules=["gxl/engines/libxl/declarations.py:ffibuilder"],
    # cffi begins this list for its module, and what setup.cfg says of it is then passed over.
    py_modules=["pytest_gxl"],
)
