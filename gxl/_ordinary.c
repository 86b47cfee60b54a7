/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The way of an ordinary event through a Context, in C: gxl/ordinary.py says which events those are.
 *
 * What is done here, is what gxl.feeds, gxl.stamps, gxl.pump and gxl.mailbox do with such an event, step by step. All
 * that is looked at first, is looked at before anything has changed: an event that turns out not to be ordinary is then
 * theirs, as if it had not been here.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#include "_compiled.h"

enum { SHUTDOWN, DEATH, EJECT, KINDS };

/* The slots of classes that are written in Python, by the objects that they belong to. */
enum { EVENT, PARKED, DOMAIN_FEED, DISK_FEED, DEATH_EVGEN, EJECT_EVGEN, OWNERS };
enum {
    /* an event */
    FOR_USER, DOMUUID, NAME, SEQ, TIME, DOMID, VDEV,
    /* a waiter of the mailbox */
    SERIAL, KEY, WAITER, GROUPS, TAKEN,
    /* a feed, of either kind */
    MEMBERS, UUID, NAMED, CALLED, SPENT, DISK_MEMBERS, DISK_UUID, DISK_NAMED, DISK_CALLED, ALLOWANCE,
    /* an evgen, of either kind */
    USER, FEED, SINK, SHUTDOWN_REPORTED, DEATH_REPORTED, HELD_OVER, EJECT_USER, EJECT_FEED, EJECT_SINK, EJECT_VDEV,
    SLOTS
};
static const struct {
    int owner;
    const char *name;
} slots[SLOTS] = {
    [FOR_USER] = {EVENT, "for_user"}, [DOMUUID] = {EVENT, "domuuid"}, [NAME] = {EVENT, "name"},
    [SEQ] = {EVENT, "seq"}, [TIME] = {EVENT, "time"}, [DOMID] = {EVENT, "domid"},
    [VDEV] = {EVENT, "vdev"}, /* of an eject */
    [SERIAL] = {PARKED, "serial"}, [KEY] = {PARKED, "key"}, [WAITER] = {PARKED, "waiter"},
    [GROUPS] = {PARKED, "groups"}, [TAKEN] = {PARKED, "event"},
    [MEMBERS] = {DOMAIN_FEED, "members"}, [UUID] = {DOMAIN_FEED, "uuid"}, [NAMED] = {DOMAIN_FEED, "named"},
    [CALLED] = {DOMAIN_FEED, "name"}, [SPENT] = {DOMAIN_FEED, "spent"},
    [DISK_MEMBERS] = {DISK_FEED, "members"}, [DISK_UUID] = {DISK_FEED, "uuid"}, [DISK_NAMED] = {DISK_FEED, "named"},
    [DISK_CALLED] = {DISK_FEED, "name"}, [ALLOWANCE] = {DISK_FEED, "allowance"},
    [USER] = {DEATH_EVGEN, "user"}, [FEED] = {DEATH_EVGEN, "_feed"}, [SINK] = {DEATH_EVGEN, "sink"},
    [SHUTDOWN_REPORTED] = {DEATH_EVGEN, "_shutdown_reported"}, [DEATH_REPORTED] = {DEATH_EVGEN, "_death_reported"},
    [HELD_OVER] = {DEATH_EVGEN, "_held_over"},
    [EJECT_USER] = {EJECT_EVGEN, "user"}, [EJECT_FEED] = {EJECT_EVGEN, "_feed"}, [EJECT_SINK] = {EJECT_EVGEN, "sink"},
    [EJECT_VDEV] = {EJECT_EVGEN, "vdev"},
};

enum { MASK, TYPE, WAKE, TIME_OF_DAY, CLASS, CERTAIN, ENGINE, CAUGHT_UP, CLOSE, SPEND, FLOODED,
       WORDS };
static const char *const words[WORDS] = {
    "mask", "type", "wake", "time", "__class__", "_certain", "_engine", "_caught_up", "_close", "spend", "_flooded",
};

typedef struct {
    PyObject_HEAD
    PyObject *feeds, *by_token, *resolve; /* the Feeds, its tokens, and its method for what is not ordinary */
    PyObject *counts, *seqs;              /* how many events there were of each type, and what numbers them */
    PyObject *plain, *picky, *enqueue;    /* the Mailbox's waiters, and its method for what nobody waits for */
    PyObject *accept;                     /* the Pump's method */
    PyObject *callbacks, *time;           /* the Callbacks, and Python's module */
    PyTypeObject *drafts[KINDS];
    PyObject *sealed[KINDS], *types[KINDS];
    PyTypeObject *owners[OWNERS];
    Py_ssize_t offsets[SLOTS];
    PyObject *words[WORDS];
} Ordinary;

/* Borrowed. NULL: nothing is there, and no exception set. */
static PyObject *get(Ordinary *self, PyObject *object, int slot)
{
    return *(PyObject **)((char *)object + self->offsets[slot]);
}

static void set(Ordinary *self, PyObject *object, int slot, PyObject *value)
{
    PyObject **place = (PyObject **)((char *)object + self->offsets[slot]), *old = *place;

    *place = Py_NewRef(value);
    Py_XDECREF(old);
}

/* ---- to whom it goes ---- */

/* Who waits for such an event as somebody with a key like `kind`'s does. NULL: nobody, or an exception is set. */
static PyObject *waiting(Ordinary *self, PyObject *event, PyObject *kind, PyObject *groups)
{
    PyObject *key, *group = NULL;

    Py_INCREF(groups); /* a domid's class may be anybody's, and compare as it likes */
    key = PyTuple_Pack(2, PyTuple_GET_ITEM(kind, 1) == Py_True ? get(self, event, DOMID) : Py_None,
                       PyTuple_GET_ITEM(kind, 2) == Py_True ? get(self, event, FOR_USER) : Py_None);
    if (key != NULL)
        group = Py_XNewRef(PyDict_GetItemWithError(groups, key));
    Py_XDECREF(key);
    Py_DECREF(groups);
    return group;
}

/* The waiter that has waited longest of those that want the event. NULL: nobody does, and then `nobody` is set; or
 * somebody else has to find out, or an exception is set. */
static PyObject *oldest(Ordinary *self, PyObject *event, int *nobody)
{
    PyObject *type = PyObject_GetAttr(event, self->words[TYPE]), *kind, *groups, *found = NULL;
    long number = type == NULL ? -1 : PyLong_AsLong(type);
    long long serial = 0;
    Py_ssize_t position = 0;

    Py_XDECREF(type);
    if (number < 0 || number > 63)
        return NULL;
    while (PyDict_Next(self->plain, &position, &kind, &groups)) {
        unsigned long long mask = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(kind, 0));
        int wanted = mask >> number & 1 && PyDict_GET_SIZE(groups) > 0;
        PyObject *group = wanted ? waiting(self, event, kind, groups) : NULL;
        long long its;

        if (group == NULL && !PyErr_Occurred())
            continue;
        /* Several are in a dict. */
        if (group == NULL || Py_TYPE(group) != self->owners[PARKED]) {
            Py_XDECREF(group);
            Py_XDECREF(found);
            return NULL;
        }
        its = PyLong_AsLongLong(get(self, group, SERIAL));
        if (found == NULL || its < serial) {
            Py_XSETREF(found, group);
            serial = its;
        } else {
            Py_DECREF(group);
        }
    }
    *nobody = found == NULL;
    return found;
}

/* What Pump.accept does. */
static int accept(Ordinary *self, PyObject *event)
{
    PyObject *mask = PyObject_GetAttr(self->callbacks, self->words[MASK]), *taker = NULL, *groups, *done;
    int called, nobody = 0;

    if (mask == NULL)
        return -1;
    called = PyObject_IsTrue(mask);
    Py_DECREF(mask);
    if (!called && PyDict_GET_SIZE(self->picky) == 0 && get(self, event, DOMID) != NULL
        && get(self, event, FOR_USER) != NULL)
        taker = oldest(self, event, &nobody);
    if (taker == NULL && PyErr_Occurred())
        return -1;
    groups = taker == NULL ? NULL : get(self, taker, GROUPS);
    if (groups == NULL || !PyDict_CheckExact(groups)) {
        Py_XDECREF(taker);
        done = PyObject_CallOneArg(nobody ? self->enqueue : self->accept, event);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    }
    if (PyDict_DelItem(groups, get(self, taker, KEY)) < 0) {
        Py_DECREF(taker);
        return -1;
    }
    set(self, taker, GROUPS, Py_None);
    set(self, taker, TAKEN, event);
    done = PyObject_CallMethodNoArgs(get(self, taker, WAITER), self->words[WAKE]);
    if (done == NULL) {
        /* Ctrl-C: nobody else will wake it. */
        PyObject *type, *value, *traceback;

        PyErr_Fetch(&type, &value, &traceback);
        done = PyObject_CallMethodNoArgs(get(self, taker, WAITER), self->words[WAKE]);
        Py_XDECREF(done);
        PyErr_Restore(type, value, traceback);
        done = NULL;
    }
    Py_DECREF(taker);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

PyDoc_STRVAR(accept_doc, "Give an event to a waiter: an ordinary one, or else to whom Pump.accept does.");

static PyObject *accept_method(PyObject *self, PyObject *event)
{
    Ordinary *ordinary = (Ordinary *)self;

    if (!PyObject_TypeCheck(event, ordinary->owners[EVENT]))
        return PyErr_Format(PyExc_TypeError, "not an event: %R", event);
    if (accept(ordinary, event) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- what it says, and of whom ---- */

/* What Stamps.stamp does with what nobody has seen yet. */
static int stamp(Ordinary *self, PyObject *event, int kind, PyObject *uuid, PyObject *user, PyObject *name)
{
    PyObject *type = self->types[kind], *count = PyObject_GetItem(self->counts, type), *one, *more = NULL;
    PyObject *seq = NULL, *now = NULL;
    int failed = 1;

    /* Python may run here, and what is borrowed be anything after that. */
    Py_INCREF(uuid);
    Py_INCREF(user);
    Py_INCREF(name);
    one = PyLong_FromLong(1);
    if (count != NULL && one != NULL)
        more = PyNumber_Add(count, one);
    if (more != NULL && PyObject_SetItem(self->counts, type, more) == 0)
        seq = PyIter_Next(self->seqs);
    if (seq != NULL)
        now = PyObject_CallMethodNoArgs(self->time, self->words[TIME_OF_DAY]);
    if (now != NULL) {
        set(self, event, DOMUUID, uuid);
        set(self, event, FOR_USER, user);
        set(self, event, NAME, name);
        set(self, event, SEQ, seq);
        set(self, event, TIME, now);
        failed = Py_TYPE(event) == self->drafts[kind]
                 && PyObject_SetAttr(event, self->words[CLASS], self->sealed[kind]) < 0;
    }
    Py_DECREF(uuid);
    Py_DECREF(user);
    Py_DECREF(name);
    Py_XDECREF(count);
    Py_XDECREF(one);
    Py_XDECREF(more);
    Py_XDECREF(seq);
    Py_XDECREF(now);
    return failed ? -1 : 0;
}

static PyObject *accept_method(PyObject *self, PyObject *event);

static int tell(Ordinary *self, PyObject *sink, PyObject *event)
{
    PyObject *done;

    if (PyCFunction_Check(sink) && PyCFunction_GET_SELF(sink) == (PyObject *)self
        && PyCFunction_GET_FUNCTION(sink) == accept_method)
        return accept(self, event);
    Py_INCREF(sink);
    done = PyObject_CallOneArg(sink, event);
    Py_DECREF(sink);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* The only member of a feed, if it is of that class, and has what is in an evgen for an application to see: borrowed. */
static PyObject *only_member(Ordinary *self, PyObject *feed, int kind)
{
    PyObject *all = get(self, feed, kind == EJECT ? DISK_MEMBERS : MEMBERS), *member, *nothing;
    Py_ssize_t position = 0;

    if (!PyDict_CheckExact(all) || PyDict_GET_SIZE(all) != 1 || !PyDict_Next(all, &position, &member, &nothing)
        || Py_TYPE(member) != self->owners[kind == EJECT ? EJECT_EVGEN : DEATH_EVGEN]
        || get(self, member, kind == EJECT ? EJECT_USER : USER) == NULL
        || get(self, member, kind == EJECT ? EJECT_SINK : SINK) == NULL
        || (kind == EJECT && get(self, member, EJECT_VDEV) == NULL))
        return NULL;
    return member;
}

/* Each of these returns 1 when the event has been delivered, 0 if it is not ordinary, and -1 with an exception set. */

static int shutdown_of(Ordinary *self, PyObject *event, PyObject *feed)
{
    PyObject *evgen = only_member(self, feed, SHUTDOWN);
    int failed;

    if (evgen == NULL || get(self, evgen, HELD_OVER) != Py_None || get(self, evgen, SHUTDOWN_REPORTED) != Py_False
        || get(self, evgen, DEATH_REPORTED) != Py_False || get(self, evgen, FEED) != feed)
        return 0;
    Py_INCREF(evgen);
    set(self, feed, SPENT, Py_True);
    set(self, evgen, SHUTDOWN_REPORTED, Py_True);
    failed = stamp(self, event, SHUTDOWN, get(self, feed, UUID), get(self, evgen, USER), get(self, feed, CALLED)) < 0
             || tell(self, get(self, evgen, SINK), event) < 0;
    Py_DECREF(evgen);
    return failed ? -1 : 1;
}

static int death_of(Ordinary *self, PyObject *event, PyObject *feed)
{
    PyObject *evgen = only_member(self, feed, DEATH), *closed;
    int failed;

    if (evgen == NULL || get(self, evgen, DEATH_REPORTED) != Py_False || get(self, feed, CALLED) == Py_None)
        return 0;
    Py_INCREF(evgen);
    set(self, evgen, FEED, Py_None);
    closed = PyObject_CallMethodObjArgs(self->feeds, self->words[CLOSE], feed, Py_True, NULL);
    if (closed != NULL)
        set(self, evgen, DEATH_REPORTED, Py_True);
    failed = closed == NULL
             || stamp(self, event, DEATH, get(self, feed, UUID), get(self, evgen, USER), get(self, feed, CALLED)) < 0
             || tell(self, get(self, evgen, SINK), event) < 0;
    Py_XDECREF(closed);
    Py_DECREF(evgen);
    return failed ? -1 : 1;
}

static int eject_of(Ordinary *self, PyObject *event, PyObject *feed)
{
    PyObject *evgen = only_member(self, feed, EJECT), *allowed;
    int same, failed;

    if (evgen == NULL || get(self, feed, DISK_UUID) == Py_None || get(self, evgen, EJECT_FEED) != feed)
        return 0;
    Py_INCREF(evgen);
    same = PyObject_RichCompareBool(get(self, event, VDEV), get(self, evgen, EJECT_VDEV), Py_EQ);
    if (same <= 0) {
        Py_DECREF(evgen);
        return same;
    }
    allowed = PyObject_CallMethodNoArgs(get(self, feed, ALLOWANCE), self->words[SPEND]);
    if (allowed == Py_False) {
        PyObject *flooded = PyObject_CallMethodOneArg(self->feeds, self->words[FLOODED], feed);
        failed = flooded == NULL;
        Py_XDECREF(flooded);
    } else {
        failed = allowed == NULL
                 || stamp(self, event, EJECT, get(self, feed, DISK_UUID), get(self, evgen, EJECT_USER),
                          get(self, feed, DISK_CALLED)) < 0
                 || tell(self, get(self, evgen, EJECT_SINK), event) < 0;
    }
    Py_XDECREF(allowed);
    Py_DECREF(evgen);
    return failed ? -1 : 1;
}

/* Whether the engine is there, and each domid known to be whose it was. -1: an exception is set. */
static int certain(Ordinary *self)
{
    PyObject *engine = PyObject_GetAttr(self->feeds, self->words[ENGINE]), *answer;
    int is_there = engine != NULL && engine != Py_None, known;

    Py_XDECREF(engine);
    if (!is_there)
        return engine == NULL ? -1 : 0;
    answer = PyObject_GetAttr(self->feeds, self->words[CERTAIN]);
    if (answer == Py_None) {
        Py_DECREF(answer);
        answer = PyObject_CallMethodNoArgs(self->feeds, self->words[CAUGHT_UP]);
    }
    known = answer == NULL ? -1 : answer == Py_True;
    Py_XDECREF(answer);
    return known;
}

PyDoc_STRVAR(resolve_doc, "Deliver what the engine reported: an ordinary event, or whatever Feeds.resolve does.");

static PyObject *resolve(PyObject *object, PyObject *event)
{
    Ordinary *self = (Ordinary *)object;
    PyObject *feed;
    int kind = 0, delivered = 0;

    while (kind < KINDS && Py_TYPE(event) != self->drafts[kind]
           && ((PyObject *)Py_TYPE(event) != self->sealed[kind] || get(self, event, SEQ) != Py_None))
        kind++;
    if (kind == KINDS || get(self, event, FOR_USER) == NULL)
        return PyObject_CallOneArg(self->resolve, event);
    feed = PyDict_GetItemWithError(self->by_token, get(self, event, FOR_USER));
    if (feed == NULL && PyErr_Occurred())
        return NULL;
    if (feed != NULL && Py_TYPE(feed) == self->owners[kind == EJECT ? DISK_FEED : DOMAIN_FEED]
        && get(self, feed, kind == EJECT ? DISK_NAMED : NAMED) == Py_True) {
        Py_INCREF(feed);
        delivered = certain(self);
        if (delivered > 0)
            delivered = (kind == SHUTDOWN ? shutdown_of : kind == DEATH ? death_of : eject_of)(self, event, feed);
        Py_DECREF(feed);
    }
    if (delivered < 0)
        return NULL;
    return delivered ? Py_NewRef(Py_None) : PyObject_CallOneArg(self->resolve, event);
}

/* ---- the type ---- */

static PyObject *ordinary_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {
        "feeds", "by_token", "resolve", "counts", "seqs", "plain", "picky", "enqueue", "accept", "callbacks", "time",
        "drafts", "sealed", "types", "owners", NULL,
    };
    Ordinary *self = (Ordinary *)type->tp_alloc(type, 0);
    PyObject **kept[] = {
        &self->feeds, &self->by_token, &self->resolve, &self->counts, &self->seqs, &self->plain, &self->picky,
        &self->enqueue, &self->accept, &self->callbacks, &self->time,
    };

    if (self == NULL)
        return NULL;
    PyObject_GC_UnTrack(self); /* what is parsed is borrowed at first */
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OO!OOOO!O!OOOO(O!O!O!)(OOO)(OOO)(O!O!O!O!O!O!)", names, &self->feeds, &PyDict_Type,
            &self->by_token, &self->resolve, &self->counts, &self->seqs, &PyDict_Type, &self->plain, &PyDict_Type,
            &self->picky, &self->enqueue, &self->accept, &self->callbacks, &self->time, &PyType_Type,
            &self->drafts[SHUTDOWN], &PyType_Type, &self->drafts[DEATH], &PyType_Type, &self->drafts[EJECT],
            &self->sealed[SHUTDOWN], &self->sealed[DEATH], &self->sealed[EJECT], &self->types[SHUTDOWN],
            &self->types[DEATH], &self->types[EJECT], &PyType_Type, &self->owners[EVENT], &PyType_Type,
            &self->owners[PARKED], &PyType_Type, &self->owners[DOMAIN_FEED], &PyType_Type, &self->owners[DISK_FEED],
            &PyType_Type, &self->owners[DEATH_EVGEN], &PyType_Type, &self->owners[EJECT_EVGEN])) {
        memset((char *)self + sizeof(PyObject), 0, sizeof(*self) - sizeof(PyObject));
        Py_DECREF(self);
        return NULL;
    }
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        Py_INCREF(*kept[i]);
    for (int kind = 0; kind < KINDS; kind++) {
        Py_INCREF(self->drafts[kind]);
        Py_INCREF(self->sealed[kind]);
        Py_INCREF(self->types[kind]);
    }
    for (int owner = 0; owner < OWNERS; owner++)
        Py_INCREF(self->owners[owner]);
    for (int slot = 0; slot < SLOTS; slot++) {
        PyTypeObject *owner = slot == VDEV ? self->drafts[EJECT] : self->owners[slots[slot].owner];
        self->offsets[slot] = gxl_find_slot(owner, slots[slot].name);
        if (self->offsets[slot] < 0)
            goto failed;
    }
    for (int word = 0; word < WORDS; word++) {
        self->words[word] = PyUnicode_InternFromString(words[word]);
        if (self->words[word] == NULL)
            goto failed;
    }
    if (!PyIter_Check(self->seqs)) {
        PyErr_Format(PyExc_TypeError, "seqs must be an iterator, not %R", self->seqs);
        goto failed;
    }
    PyObject_GC_Track(self);
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

/* All that this object holds, one after the other. */
#define EACH_MEMBER(self, visit_it)                                                                                     \
    do {                                                                                                                \
        visit_it(self->feeds); visit_it(self->by_token); visit_it(self->resolve); visit_it(self->counts);               \
        visit_it(self->seqs); visit_it(self->plain); visit_it(self->picky); visit_it(self->enqueue);                    \
        visit_it(self->accept); visit_it(self->callbacks); visit_it(self->time);                                        \
        for (int kind = 0; kind < KINDS; kind++) {                                                                      \
            visit_it(self->drafts[kind]); visit_it(self->sealed[kind]); visit_it(self->types[kind]);                    \
        }                                                                                                               \
        for (int owner = 0; owner < OWNERS; owner++)                                                                    \
            visit_it(self->owners[owner]);                                                                              \
    } while (0)

static int ordinary_traverse(PyObject *object, visitproc visit, void *arg)
{
    Ordinary *self = (Ordinary *)object;

    Py_VISIT(Py_TYPE(object));
    EACH_MEMBER(self, Py_VISIT);
    return 0;
}

/* There is no tp_clear, as tuples have none: in each cycle is something else that has, such as the Feeds, and what that
 * takes with it may still call this. */
static void ordinary_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    Ordinary *self = (Ordinary *)object;

    PyObject_GC_UnTrack(object);
    EACH_MEMBER(self, Py_CLEAR);
    for (int word = 0; word < WORDS; word++)
        Py_CLEAR(self->words[word]);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef ordinary_methods[] = {
    {"accept", accept_method, METH_O, accept_doc},
    {"resolve", resolve, METH_O, resolve_doc},
    {NULL},
};

PyDoc_STRVAR(ordinary_doc, "The way of ordinary events through one Context: see gxl.ordinary.");

static PyType_Slot ordinary_slots[] = {
    {Py_tp_doc, (void *)ordinary_doc},
    {Py_tp_new, ordinary_new},
    {Py_tp_dealloc, ordinary_dealloc},
    {Py_tp_traverse, ordinary_traverse},
    {Py_tp_methods, ordinary_methods},
    {0, NULL},
};

PyType_Spec gxl_ordinary_spec = {
    .name = "gxl._compiled.Ordinary",
    .basicsize = sizeof(Ordinary),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = ordinary_slots,
};
