# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for what follows the loss of an engine: how it shows, and who comes next on the same host."""

from __future__ import annotations

import contextlib
import os
import select

import pytest
from zope.interface.verify import verifyObject

from gxl.errors import Disaster, MisuseError
from gxl.interfaces import IEngine, IStoreConnection, ISuccession
from gxl.testing import differences
from gxl.testing.engines.rig import Rig, poll, users


def _heir(rig: Rig, succession: ISuccession) -> Rig:
    heir = Rig(rig.host, succession.open, rig.side, rig.drive, rig.patience)
    rig.cleanup.enter_context(heir.cleanup)
    return heir


def a_successor_is_opened_on_the_same_host(rig: Rig) -> None:
    former = rig.another()
    domid = rig.domain()
    former.engine.evenable_domain_death(domid, 1)
    succession = former.engine.succession()
    verifyObject(ISuccession, succession)
    former.engine.ctx_free()
    heir = _heir(rig, succession)
    verifyObject(IEngine, heir.engine)
    assert heir.engine is not former.engine
    heir.engine.evenable_domain_death(domid, 2)
    rig.host.destroy_domain(domid)
    assert users(heir.events()) == [2]


def a_succession_can_be_used_again_and_connects_to_xenstored_by_itself(rig: Rig) -> None:
    former = rig.another()
    succession = former.engine.succession()
    former.engine.ctx_free()
    for _ in range(2):
        connection = succession.xenstore_connect()
        verifyObject(IStoreConnection, connection)
        connection.close()
        succession = _heir(rig, succession).engine.succession()


def a_succession_comes_from_an_engine_that_is_beyond_help_too(rig: Rig) -> None:
    former = rig.another()
    listener = former.listen()
    former.engine.evenable_domain_death(rig.domain(), 1)
    former.settle()
    rig.host.fail_next("getdomaininfolist", 5)
    rig.host.release()
    former.until(lambda: listener.disasters, "the disaster is reported")
    assert isinstance(former.engine.dead, Disaster)
    heir = _heir(rig, former.engine.succession())
    former.engine.ctx_free()
    assert heir.engine.dead is None
    assert users(heir.queue_deaths(3)) == [3]


def whoever_does_not_own_the_engine_gets_no_succession(rig: Rig) -> None:
    other = rig.another()
    public, other.engine = other.engine, other.engine.claim(contextlib.nullcontext)
    with pytest.raises(MisuseError):
        public.succession()
    assert ISuccession.providedBy(other.engine.succession())


def the_end_of_the_connection_to_xenstored_shows_on_an_fd_or_is_noticed(rig: Rig) -> None:
    other = rig.another()
    assert other.engine.hangup_fd is None, "an engine that nobody has claimed"
    other.engine = other.engine.claim(contextlib.nullcontext)
    listener = other.listen()
    other.engine.evenable_domain_death(rig.domain(), 1)
    other.settle()
    fd = other.engine.hangup_fd
    assert (fd is None) == (rig.expected(differences.DEAD_XENSTORED) == "disaster")
    if fd is not None:
        assert poll([(fd, 0)], 0) == [(fd, 0, 0)]
    rig.host.drop_connections()
    if fd is None:
        other.until(lambda: listener.disasters, "the loss is reported")
    else:
        other.until(lambda: poll([(fd, 0)], 0)[0][2] & select.POLLHUP, "the fd says so")
    other.engine.ctx_free()
    if fd is not None:
        with pytest.raises(OSError, match=os.strerror(9)):
            os.fstat(fd)
