# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for an engine's beginning and end, for several engines, for claim, and for forks of the whole process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest
from zope.interface.verify import verifyObject

from gxl.errors import Disaster, Fail, MisuseError
from gxl.events import DomainDeath, OperationComplete
from gxl.interfaces import AsyncHow, IEngine, IEvgen, IStoreConnection
from gxl.testing import differences
from gxl.testing.engines.rig import Rig, in_a_fresh_process, users
from gxl.xenstore import Client, Request

_EVERY_CALL: dict[str, Callable[[IEngine], object]] = {
    "event_check": lambda engine: engine.event_check(),
    "event_wait": lambda engine: engine.event_wait(),
    "event_register_callbacks": lambda engine: engine.event_register_callbacks(None),
    "evenable_domain_death": lambda engine: engine.evenable_domain_death(1),
    "evenable_disk_eject": lambda engine: engine.evenable_disk_eject(1, "xvda"),
    "osevent_beforepoll": lambda engine: engine.osevent_beforepoll(),
    "osevent_afterpoll": lambda engine: engine.osevent_afterpoll([]),
    "childproc_setmode": lambda engine: engine.childproc_setmode(None),
    "childproc_reaped": lambda engine: engine.childproc_reaped(1, 0),
    "childproc_sigchld_occurred": lambda engine: engine.childproc_sigchld_occurred(),
    "domain_pause, synchronous": lambda engine: engine.domain_pause(1),
}
"""What a Context keeps to itself."""

_ANYBODYS_CALLS: dict[str, Callable[[IEngine], object]] = {
    "domain_pause": lambda engine: engine.domain_pause(1, AsyncHow(1)),
    "ao_abort": lambda engine: engine.ao_abort(AsyncHow(1)),
    "domain_info": lambda engine: engine.domain_info(0),
    "list_domain": lambda engine: engine.list_domain(),
    "xenstore_connect": lambda engine: engine.xenstore_connect(),
}


def _all_refused(engine: IEngine, calls: dict[str, Callable[[IEngine], object]]) -> None:
    for name, call in calls.items():
        try:
            call(engine)
        except MisuseError:
            continue
        pytest.fail(f"{name} was not refused")


def an_engine_provides_what_the_contract_says(rig: Rig) -> None:
    verifyObject(IEngine, rig.engine)
    verifyObject(IEvgen, rig.engine.evenable_domain_death(1))
    verifyObject(IEvgen, rig.engine.evenable_disk_eject(1, "xvda"))
    assert rig.engine.dead is None
    assert rig.engine.name
    assert rig.engine.version


def freeing_ends_everything_and_may_be_repeated(rig: Rig) -> None:
    other = rig.another()
    evgens = [other.engine.evenable_domain_death(rig.domain(), user) for user in range(3)]
    eject = other.engine.evenable_disk_eject(1, "xvda")
    other.engine.ctx_free()
    other.engine.ctx_free()
    _all_refused(other.engine, _EVERY_CALL | _ANYBODYS_CALLS)
    with pytest.raises(MisuseError):
        other.engine.evdisable_domain_death(evgens[0])
    with pytest.raises(MisuseError):
        other.engine.evdisable_disk_eject(eject)


def events_that_were_taken_outlive_the_engine(rig: Rig) -> None:
    other = rig.another()
    expected = other.queue_deaths(1, 2)
    event = other.engine.event_check()
    other.engine.ctx_free()
    assert event == expected[0]


def an_event_is_for_the_engine_whose_evgen_it_is(rig: Rig) -> None:
    other = rig.another()
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.host.destroy_domain(domid)
    other.settle()
    assert other.queued() == []
    assert users(rig.events()) == [1]


def one_engine_can_be_freed_while_another_goes_on(rig: Rig) -> None:
    other = rig.another()
    domid = rig.domain()
    other.engine.evenable_domain_death(domid, 1)
    rig.engine.evenable_domain_death(domid, 2)
    other.engine.ctx_free()
    rig.host.destroy_domain(domid)
    assert users(rig.events()) == [2]


def a_lost_connection_to_xenstored(rig: Rig) -> None:
    listener = rig.listen()
    rig.engine.evenable_domain_death(rig.domain(), 1)
    rig.settle()
    rig.host.drop_connections()
    if rig.expected(differences.DEAD_XENSTORED) == "disaster":
        rig.until(lambda: listener.disasters, "the disaster is reported")
        assert [kind for kind, *_ in listener.disasters] == [0]
        assert isinstance(rig.engine.dead, Disaster)
        with pytest.raises(Disaster):
            rig.engine.event_check()
    else:
        for _ in range(5):
            rig.turn(10)
        assert listener.disasters == []
        assert rig.engine.dead is None
        with pytest.raises(Fail):
            rig.engine.domain_shutdown(rig.domain(), AsyncHow(1))


def whoever_lost_xenstored_can_open_another_engine(rig: Rig) -> None:
    rig.host.drop_connections()
    domid = rig.domain()
    other = rig.another()
    other.engine.evenable_domain_death(domid, 1)
    rig.host.destroy_domain(domid)
    assert users(other.events()) == [1]


def a_store_connection_of_ones_own_speaks_the_protocol(rig: Rig) -> None:
    domid = rig.domain(name="bert")
    connection = rig.engine.xenstore_connect()
    verifyObject(IStoreConnection, connection)
    with pytest.raises(BlockingIOError):
        connection.recv(100)
    client = Client()
    request = client.read(b"/local/domain/%d/name" % domid)
    while client.outgoing:
        client.sent(connection.send(bytes(client.outgoing)))

    def answered() -> Request | None:
        with contextlib.suppress(BlockingIOError):
            for arrival in client.receive(connection.recv(4096)):
                assert arrival is request
        return request if request.done else None

    assert rig.until(lambda: answered() is not None, "the name is read")
    assert request.result() == b"bert"
    connection.close()
    connection.close()


@contextlib.contextmanager
def _guard(entered: list[str]) -> Iterator[None]:
    entered.append("in")
    try:
        yield
    finally:
        entered.append("out")


def a_claimed_engine_serves_its_owner_alone(rig: Rig) -> None:
    entered: list[str] = []
    other = rig.another()
    public, other.engine = other.engine, other.engine.claim(lambda: _guard(entered))
    _all_refused(public, _EVERY_CALL)
    for name in ("ctx_free", "postfork_child_noexec"):
        with pytest.raises(MisuseError):
            getattr(public, name)()
    other.engine.osevent_register_hooks(other.loop)
    domid = rig.domain()
    evgen = other.engine.evenable_domain_death(domid, 1)
    assert entered == ["in", "out"], "the hook did not run under the guard"
    with pytest.raises(MisuseError):
        public.evdisable_domain_death(evgen)
    assert public.domain_info(domid).domid == domid
    assert domid in [info.domid for info in public.list_domain()]
    public.xenstore_connect().close()
    public.domain_pause(domid, AsyncHow(2))
    assert other.engine.event_check() == OperationComplete(domid, 0, for_user=2)
    rig.host.destroy_domain(domid)
    assert other.events() == [DomainDeath(domid, for_user=1)]
    other.engine.ctx_free()
    _all_refused(public, _ANYBODYS_CALLS)


def only_an_unused_engine_can_be_claimed(rig: Rig) -> None:
    domid = rig.domain()
    uses: list[Callable[[IEngine], object]] = [
        lambda engine: engine.claim(contextlib.nullcontext),
        lambda engine: engine.ctx_free(),
        lambda engine: engine.evenable_domain_death(1),
        lambda engine: engine.evenable_disk_eject(1, "xvda"),
        lambda engine: engine.domain_pause(domid, AsyncHow(1)),
        lambda engine: engine.osevent_register_hooks(rig.loop),
    ]
    for use in uses:
        other = rig.another()
        claimed = use(other.engine)
        with pytest.raises(MisuseError):
            other.engine.claim(contextlib.nullcontext)
        if IEngine.providedBy(claimed):
            other.engine = IEngine(claimed)
            other.engine.ctx_free()


def a_forked_child_cannot_use_the_engine_by_mistake(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.settle()

    def in_the_child() -> None:
        _all_refused(rig.engine, _EVERY_CALL | _ANYBODYS_CALLS)
        with pytest.raises(MisuseError):
            rig.engine.ctx_free()
        rig.engine.postfork_child_noexec()
        _all_refused(rig.engine, _EVERY_CALL | _ANYBODYS_CALLS)
        with pytest.raises(MisuseError):
            rig.engine.postfork_child_noexec()

    in_a_fresh_process(in_the_child)
    rig.host.destroy_domain(domid)
    assert users(rig.events()) == [1]


def a_forked_child_can_open_an_engine_of_its_own(rig: Rig) -> None:
    rig.engine.evenable_domain_death(1)

    def in_the_child() -> None:
        rig.engine.postfork_child_noexec()
        own = rig.fresh()
        with own.cleanup:
            assert users(own.queue_deaths(7)) == [7]

    in_a_fresh_process(in_the_child)


def postfork_is_for_a_forked_child(rig: Rig) -> None:
    with pytest.raises(MisuseError):
        rig.engine.postfork_child_noexec()
    assert users(rig.queue_deaths(1)) == [1]


def an_engine_leaves_no_fd_behind(rig: Rig) -> None:
    def open_and_free() -> None:
        other = rig.fresh()
        with other.cleanup:
            other.queue_deaths(1)
            other.engine.domain_shutdown(rig.domain())

    open_and_free()
    before = set(os.listdir("/proc/self/fd"))
    open_and_free()
    assert set(os.listdir("/proc/self/fd")) == before
