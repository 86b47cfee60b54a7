/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is done for each event, in C. gxl/compiled.py says what it is for, and what stands in for it.
 *
 * Everything here runs with the GIL held, but for libxl_event_check: it waits for libxl's lock, and who holds that lock
 * may be about to call Python.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "_compiled.h"

#ifdef Py_GIL_DISABLED
#error "written for a Python that has a GIL"
#endif

/* ---- signals: gxl/shield.py ---- */

/* One process has one main thread, and so one of each of these. */
static sigset_t to_hold;
static sigset_t before; /* what the main thread had blocked when it began to hold the others */
static int holding;

/* Whether this thread is the main one, once that is known: to ask the kernel each time would take two system calls. */
static __thread enum { UNKNOWN, MAIN, OTHER } standing;

static void forked(void)
{
    standing = UNKNOWN; /* whichever thread forked is the child's only one */
}

static int is_main(void)
{
    if (standing == UNKNOWN)
        standing = syscall(SYS_gettid) == getpid() ? MAIN : OTHER;
    return standing == MAIN;
}

PyDoc_STRVAR(hold_doc, "Block the signals, in the main thread. False: there is nothing to do, or somebody holds them.");

static PyObject *hold(PyObject *module, PyObject *unused)
{
    sigset_t old;

    if (holding || !is_main())
        Py_RETURN_FALSE;
    pthread_sigmask(SIG_BLOCK, &to_hold, &old);
    /* One that came just before has not been handled yet: its handler would run after this, with all held. */
    if (PyErr_CheckSignals() < 0) {
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        return NULL;
    }
    before = old;
    holding = 1;
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(let_go_doc, "Let the signals come again, and those that have come be handled, which may raise.");

static PyObject *let_go(PyObject *module, PyObject *unused)
{
    if (holding) {
        holding = 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(held_from_doc, "What was blocked when the signals began to be held, as a list; None: nobody holds them.");

static PyObject *held_from(PyObject *module, PyObject *unused)
{
    PyObject *numbers;

    if (!holding)
        Py_RETURN_NONE;
    numbers = PyList_New(0);
    for (int number = 1; numbers != NULL && number < NSIG; number++) {
        if (sigismember(&before, number) == 1) {
            PyObject *entry = PyLong_FromLong(number);
            if (entry == NULL || PyList_Append(numbers, entry) < 0)
                Py_CLEAR(numbers);
            Py_XDECREF(entry);
        }
    }
    return numbers;
}

PyDoc_STRVAR(to_be_held_doc, "Say which signals hold() is to block. Not while they are held.");

static PyObject *to_be_held(PyObject *module, PyObject *numbers)
{
    sigset_t wanted;
    PyObject *iterator = PyObject_GetIter(numbers), *entry;

    if (iterator == NULL)
        return NULL;
    sigemptyset(&wanted);
    while ((entry = PyIter_Next(iterator)) != NULL) {
        long number = PyLong_AsLong(entry);
        Py_DECREF(entry);
        if (!PyErr_Occurred() && sigaddset(&wanted, (int)number) < 0)
            PyErr_Format(PyExc_ValueError, "there is no signal %ld", number);
        if (PyErr_Occurred())
            break;
    }
    Py_DECREF(iterator);
    if (PyErr_Occurred())
        return NULL;
    to_hold = wanted;
    Py_RETURN_NONE;
}

/* ---- events: gxl/engines/libxl/events.py ---- */

/* The slots that all events have, and then those that one class has. */
enum { DOMID, DOMUUID, FOR_USER, NAME, SEQ, TIME, COMMON };
enum { SHUTDOWN_REASON = COMMON, VDEV, DISK, SLOTS };
static const char *const slot_names[SLOTS] = {
    "domid", "domuuid", "for_user", "name", "seq", "time", "shutdown_reason", "vdev", "disk",
};

/* libxl_event_type */
enum { DOMAIN_SHUTDOWN = 1, DOMAIN_DEATH, DISK_EJECT, KINDS };

/* So many disks are known at once, and so many members of a libxl_device_disk can be told. */
#define DISKS 128
#define MEMBERS 16

typedef int event_check(void *ctx, char **event_r, uint64_t typemask, void *predicate, void *predicate_user);
typedef void event_free(void *ctx, char *event);

typedef struct {
    PyObject_HEAD
    event_check *check;
    event_free *free;
    int not_ready; /* what event_check returns when there is nothing */
    void *ctx;
    char **out; /* the event that libxl gave, until somebody else has a copy: NULL at other times */
    Py_ssize_t domid, for_user, type, shutdown_reason;
    Py_ssize_t texts[MEMBERS], numbers[MEMBERS]; /* where an eject's char * and its 32-bit numbers are */
    int n_texts, n_numbers;
    PyTypeObject *classes[KINDS];
    Py_ssize_t slots[SLOTS]; /* where the instances of those classes keep what */
    PyObject *reasons; /* a tuple: the ShutdownReason of each number */
    PyObject *ejects; /* a dict: from an eject's content, as bytes, to (vdev, Disk) */
    PyObject *append; /* "append" */
} Collector;

static int find_offsets(PyObject *offsets, Py_ssize_t *found)
{
    Py_ssize_t n = PyTuple_GET_SIZE(offsets);

    if (n > MEMBERS) {
        PyErr_SetString(PyExc_ValueError, "too many members");
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        found[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(offsets, i));
        if (PyErr_Occurred())
            return -1;
    }
    return (int)n;
}

Py_ssize_t gxl_find_slot(PyTypeObject *class, const char *name)
{
    /* A name that is not interned takes a place of its own in the interpreter's cache of types' attributes. */
    PyObject *interned = PyUnicode_InternFromString(name), *descriptor;
    Py_ssize_t offset = -1;

    if (interned == NULL)
        return -1;
    descriptor = PyObject_GetAttr((PyObject *)class, interned);
    Py_DECREF(interned);
    if (descriptor == NULL)
        return -1;
    if (Py_TYPE(descriptor) == &PyMemberDescr_Type
        && ((PyMemberDescrObject *)descriptor)->d_member->type == T_OBJECT_EX
        && PyType_IsSubtype(class, PyDescr_TYPE(descriptor)))
        offset = ((PyMemberDescrObject *)descriptor)->d_member->offset;
    else
        PyErr_Format(PyExc_TypeError, "%s.%s is no slot", class->tp_name, name);
    Py_DECREF(descriptor);
    return offset;
}

static PyObject *collector_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {
        "check", "free", "not_ready", "ctx", "out", "members", "texts", "numbers", "classes", "reasons", NULL,
    };
    unsigned long long check, free_, ctx, out;
    int not_ready;
    Py_ssize_t domid, for_user, kind, reason;
    PyObject *texts, *numbers, *shutdown, *death, *eject, *reasons;
    Collector *self;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "KKiKK(nnnn)O!O!(O!O!O!)O!", names, &check, &free_, &not_ready,
                                     &ctx, &out, &domid, &for_user, &kind, &reason, &PyTuple_Type, &texts,
                                     &PyTuple_Type, &numbers, &PyType_Type, &shutdown, &PyType_Type, &death,
                                     &PyType_Type, &eject, &PyTuple_Type, &reasons))
        return NULL;
    if (PyTuple_GET_SIZE(reasons) != 256) {
        PyErr_SetString(PyExc_ValueError, "a guest can claim 256 reasons");
        return NULL;
    }
    self = (Collector *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->check = (event_check *)(uintptr_t)check;
    self->free = (event_free *)(uintptr_t)free_;
    self->not_ready = not_ready;
    self->ctx = (void *)(uintptr_t)ctx;
    self->out = (char **)(uintptr_t)out;
    self->domid = domid;
    self->for_user = for_user;
    self->type = kind;
    self->shutdown_reason = reason;
    self->classes[DOMAIN_SHUTDOWN] = (PyTypeObject *)Py_NewRef(shutdown);
    self->classes[DOMAIN_DEATH] = (PyTypeObject *)Py_NewRef(death);
    self->classes[DISK_EJECT] = (PyTypeObject *)Py_NewRef(eject);
    self->reasons = Py_NewRef(reasons);
    self->ejects = PyDict_New();
    self->append = PyUnicode_InternFromString("append");
    if (self->ejects == NULL || self->append == NULL)
        goto failed;
    self->n_texts = find_offsets(texts, self->texts);
    self->n_numbers = find_offsets(numbers, self->numbers);
    if (self->n_texts < 0 || self->n_numbers < 0)
        goto failed;
    for (int slot = 0; slot < SLOTS; slot++) {
        PyTypeObject *owner = self->classes[slot < VDEV ? DOMAIN_SHUTDOWN : DISK_EJECT];
        self->slots[slot] = gxl_find_slot(owner, slot_names[slot]);
        if (self->slots[slot] < 0)
            goto failed;
    }
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

static int collector_traverse(PyObject *object, visitproc visit, void *arg)
{
    Collector *self = (Collector *)object;

    Py_VISIT(Py_TYPE(object));
    for (int kind = 0; kind < KINDS; kind++)
        Py_VISIT(self->classes[kind]);
    Py_VISIT(self->reasons);
    Py_VISIT(self->ejects);
    return 0;
}

/* There is no tp_clear: it can still be called by what the collector takes with it. */
static void collector_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    Collector *self = (Collector *)object;

    PyObject_GC_UnTrack(object);
    for (int kind = 0; kind < KINDS; kind++)
        Py_CLEAR(self->classes[kind]);
    Py_CLEAR(self->reasons);
    Py_CLEAR(self->ejects);
    Py_CLEAR(self->append);
    type->tp_free(object);
    Py_DECREF(type);
}

/* An eject's content: all numbers, and all strings, each with a byte that says whether it is NULL. */
static PyObject *content(Collector *self, const char *event)
{
    size_t size = 4 * (size_t)self->n_numbers;
    PyObject *key;
    char *to;

    for (int i = 0; i < self->n_texts; i++) {
        const char *text = *(char *const *)(event + self->texts[i]);
        size += 1 + (text == NULL ? 0 : strlen(text) + 1);
    }
    key = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (key == NULL)
        return NULL;
    to = PyBytes_AS_STRING(key);
    for (int i = 0; i < self->n_numbers; i++, to += 4)
        memcpy(to, event + self->numbers[i], 4);
    for (int i = 0; i < self->n_texts; i++) {
        const char *text = *(char *const *)(event + self->texts[i]);
        *to++ = text != NULL;
        if (text != NULL)
            to = stpcpy(to, text) + 1;
    }
    return key;
}

static void put(PyObject *event, Py_ssize_t slot, PyObject *value)
{
    *(PyObject **)((char *)event + slot) = Py_NewRef(value);
}

/* A copy of a C event; None where Python has to make it. NULL: an exception is set. */
static PyObject *copy(Collector *self, const char *event)
{
    PyObject *made, *domid, *for_user, *eject = NULL; /* borrowed */
    uint32_t number;
    uint64_t user;
    int kind;

    memcpy(&kind, event + self->type, sizeof kind);
    if (kind < DOMAIN_SHUTDOWN || kind > DISK_EJECT)
        Py_RETURN_NONE;
    if (kind == DISK_EJECT) {
        PyObject *key = content(self, event);
        if (key == NULL)
            return NULL;
        eject = PyDict_GetItemWithError(self->ejects, key);
        Py_DECREF(key);
        if (eject == NULL) {
            if (PyErr_Occurred())
                return NULL;
            Py_RETURN_NONE;
        }
    }
    memcpy(&number, event + self->domid, sizeof number);
    memcpy(&user, event + self->for_user, sizeof user);
    domid = PyLong_FromUnsignedLong(number);
    for_user = PyLong_FromUnsignedLongLong(user);
    made = domid == NULL || for_user == NULL ? NULL : self->classes[kind]->tp_alloc(self->classes[kind], 0);
    if (made != NULL) {
        put(made, self->slots[DOMID], domid);
        put(made, self->slots[FOR_USER], for_user);
        for (int slot = 0; slot < COMMON; slot++) {
            if (slot != DOMID && slot != FOR_USER)
                put(made, self->slots[slot], Py_None);
        }
        if (kind == DOMAIN_SHUTDOWN) {
            unsigned char reason = (unsigned char)event[self->shutdown_reason];
            put(made, self->slots[SHUTDOWN_REASON], PyTuple_GET_ITEM(self->reasons, reason));
        } else if (kind == DISK_EJECT) {
            put(made, self->slots[VDEV], PyTuple_GET_ITEM(eject, 0));
            put(made, self->slots[DISK], PyTuple_GET_ITEM(eject, 1));
        }
    }
    Py_XDECREF(domid);
    Py_XDECREF(for_user);
    return made;
}

PyDoc_STRVAR(collect_doc,
             "collect(into, limit): move events to the deque `into`, up to so many.\n\n"
             "True: so many were moved. False: libxl has no more. None: the next, which is at `out`, or its absence,\n"
             "which is an error, is Python's part. What raises leaves at `out` what is not in `into`.");

static PyObject *collect(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    Collector *self = (Collector *)object;
    Py_ssize_t limit;

    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "collect takes a deque and a limit");
        return NULL;
    }
    limit = PyLong_AsSsize_t(args[1]);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    for (; limit > 0; limit--) {
        PyObject *event, *done;
        char *given;

        if (*self->out == NULL) {
            int rc;
            Py_BEGIN_ALLOW_THREADS
            rc = self->check(self->ctx, self->out, UINT64_MAX, NULL, NULL);
            Py_END_ALLOW_THREADS
            if (rc == self->not_ready)
                Py_RETURN_FALSE;
            if (rc != 0)
                Py_RETURN_NONE;
        }
        event = copy(self, *self->out);
        if (event == NULL || event == Py_None)
            return event;
        done = PyObject_CallMethodOneArg(args[0], self->append, event);
        Py_DECREF(event);
        if (done == NULL)
            return NULL;
        Py_DECREF(done);
        given = *self->out;
        *self->out = NULL;
        self->free(self->ctx, given);
    }
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(remember_doc, "remember(vdev, disk): this is what the eject at `out` says. The next that does is copied here.");

static PyObject *remember(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    Collector *self = (Collector *)object;
    PyObject *key, *known;
    int failed;

    if (nargs != 2 || *self->out == NULL) {
        PyErr_SetString(PyExc_TypeError, "remember takes a vdev and a disk, and there has to be an event");
        return NULL;
    }
    /* A guest may say something else each time. */
    if (PyDict_GET_SIZE(self->ejects) >= DISKS)
        PyDict_Clear(self->ejects);
    key = content(self, *self->out);
    known = PyTuple_Pack(2, args[0], args[1]);
    failed = key == NULL || known == NULL || PyDict_SetItem(self->ejects, key, known) < 0;
    Py_XDECREF(key);
    Py_XDECREF(known);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef collector_methods[] = {
    {"collect", (PyCFunction)(void (*)(void))collect, METH_FASTCALL, collect_doc},
    {"remember", (PyCFunction)(void (*)(void))remember, METH_FASTCALL, remember_doc},
    {NULL},
};

PyDoc_STRVAR(collector_doc,
             "Collector(check, free, not_ready, ctx, out, members, texts, numbers, classes, reasons)\n\n"
             "Takes events off one ctx. `check` and `free` are the addresses of libxl's functions, `out` that of a\n"
             "libxl_event *. `members`: where an event's domid, for_user, type and shutdown_reason are; `texts` and\n"
             "`numbers`: where an eject's strings and 32-bit numbers are.");

static PyType_Slot collector_slots[] = {
    {Py_tp_doc, (void *)collector_doc},
    {Py_tp_new, collector_new},
    {Py_tp_dealloc, collector_dealloc},
    {Py_tp_traverse, collector_traverse},
    {Py_tp_methods, collector_methods},
    {0, NULL},
};

static PyType_Spec collector_spec = {
    .name = "gxl._compiled.Collector",
    .basicsize = sizeof(Collector),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = collector_slots,
};

static int execute(PyObject *module)
{
    static int executed;

    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "gxl._compiled is for the main interpreter");
        return -1;
    }
    if (!executed && pthread_atfork(NULL, NULL, forked) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    executed = 1;
    for (int i = 0; i < 2; i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, i == 0 ? &collector_spec : &gxl_ordinary_spec, NULL);
        if (type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0) {
            Py_XDECREF(type);
            return -1;
        }
        Py_DECREF(type);
    }
    return PyModule_AddStringConstant(module, "SOURCES", GXL_SOURCES);
}

static PyMethodDef methods[] = {
    {"hold", hold, METH_NOARGS, hold_doc},
    {"let_go", let_go, METH_NOARGS, let_go_doc},
    {"held_from", held_from, METH_NOARGS, held_from_doc},
    {"to_be_held", to_be_held, METH_O, to_be_held_doc},
    {NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, execute},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "gxl._compiled",
    .m_doc = "What is done for each event, in C: see gxl.compiled.",
    .m_methods = methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__compiled(void)
{
    return PyModuleDef_Init(&module);
}
