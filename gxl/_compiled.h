/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of gxl._compiled have in common. Python.h comes first. */

/* Where the instances of `class`, or of what it inherits from, have `name`. -1: an exception is set. */
Py_ssize_t gxl_find_slot(PyTypeObject *class, const char *name);

/* The types that gxl._compiled has. */
extern PyType_Spec gxl_ordinary_spec;
