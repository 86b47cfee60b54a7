# SPDX-License-Identifier: LGPL-2.1-or-later
"""The web application as its clients see it, on each engine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from gevent.pywsgi import WSGIServer
from prometheus_client.parser import text_string_to_metric_families
from web_client import TOKEN, Browser, bearer, serving
from werkzeug.test import Client, TestResponse
from worlds import World, until

import gxl
from gxl.events import from_json
from gxl.web import Application, board

Make = Callable[..., Application]


@pytest.fixture
def make(world: World) -> Iterator[Make]:
    """Makes Applications, on a Context of the world's that is in `made.ctx`."""
    made: list[Application] = []

    def make(**how: Any) -> Application:
        made.append(Application(world.open(), **how))
        return made[-1]

    yield make
    for application in made:
        application.close()


@pytest.fixture
def application(make: Make) -> Application:
    return make(heartbeat=0.5)


@pytest.fixture
def server(application: Application) -> Iterator[WSGIServer]:
    with serving(application) as server:
        yield server


def told(answer: TestResponse) -> dict[str, Any]:
    """What an answer says in JSON."""
    content: dict[str, Any] = json.loads(answer.text)
    return content


def uuid_of(world: World, domid: int) -> UUID:
    found: UUID = world.host.domain_info(domid).uuid
    return found


def test_domains_are_listed_with_what_the_hypervisor_and_xenstore_know(world: World, application: Application) -> None:
    domid = world.host.create_domain("web1", memory_kb=65536)
    world.host.shutdown_domain(domid, 3)
    (found,) = (row for row in told(Client(application).get("/api/domains"))["domains"] if row["domid"] == domid)
    assert found.pop("cpu_time") >= 0
    assert time.time() - 60 < found.pop("time") <= time.time()
    assert found == {
        "domid": domid,
        "uuid": str(uuid_of(world, domid)),
        "name": "web1",
        "state": "shutdown",
        "shutdown_reason": "crash",
        "current_memory_kb": 65536,
        "max_memory_kb": 65536,
    }


def test_a_browser_gets_the_domains_and_then_each_event_as_it_happens(world: World, server: WSGIServer) -> None:
    first = world.host.create_domain("web1")
    with Browser(server) as browser:
        assert browser.next("hello")["resumed"] is False
        browser.until_domains(lambda domains: first in domains and domains[first]["name"] == "web1")
        second = world.host.create_domain("web2")
        browser.until_domains(lambda domains: second in domains)
        world.host.shutdown_domain(second, 1)
        event = browser.next("event")
        assert (event["type"], event["domid"], event["shutdown_reason"]) == ("domain_shutdown", second, "reboot")
        browser.until_domains(lambda domains: domains[second]["state"] == "shutdown")
        world.host.destroy_domain(first)
        event = browser.next("event")
        assert (event["type"], event["domid"], event["name"]) == ("domain_death", first, "web1")
        browser.until_domains(lambda domains: first not in domains)


def test_a_quiet_host_still_gives_signs_of_life(server: WSGIServer) -> None:
    with Browser(server) as browser:
        assert browser.next("hello")["heartbeat"] == 0.5
        before = browser.comments
        until(lambda: browser.read() or browser.comments >= before + 2)


def test_who_comes_back_gets_what_he_missed_and_nothing_twice(world: World, server: WSGIServer) -> None:
    with Browser(server) as browser:
        domids = [world.host.create_domain(f"web{number}") for number in range(3)]
        browser.until_domains(lambda domains: set(domids) <= set(domains))
        world.host.destroy_domain(domids[0])
        assert browser.next("event")["domid"] == domids[0]
        browser.until_domains(lambda domains: domids[0] not in domains)
    world.host.destroy_domain(domids[1])
    world.host.destroy_domain(domids[2])
    with Browser(server, browser) as again:
        greeting = again.next("hello")
        assert (greeting["resumed"], greeting["restarted"]) == (True, False)
        assert {again.next("event")["domid"], again.next("event")["domid"]} == set(domids[1:])
        again.until_domains(lambda domains: domids[1] not in domains and domids[2] not in domains)
        assert not again.anew


@pytest.mark.parametrize("last", ["deadbeef.3.4", "7", "", "x" * 5000, "{0}.999999.1", "{0}.0.999999"])
def test_who_knows_another_server_is_told_so_and_gets_everything(
    world: World, application: Application, server: WSGIServer, last: str
) -> None:
    domid = world.host.create_domain("web1")
    with Browser(server, last=last.format(application._board.epoch)) as browser:
        greeting = browser.next("hello")
        assert (greeting["resumed"], greeting["restarted"]) == (False, True)
        browser.until_domains(lambda domains: domid in domains)
        assert browser.anew


def test_who_comes_back_too_late_is_told_how_many_events_are_not_shown(
    world: World, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "HISTORY", 5)
    application = make()
    with serving(application) as server:
        with Browser(server) as browser:
            browser.next("domains")
        for number in range(12):
            application.show(gxl.DomainDeath(number, seq=number, time=0.0))
        with Browser(server, browser) as again:
            assert again.next("missed") == {"count": 7}
            assert [again.next("event")["domid"] for _ in range(5)] == [7, 8, 9, 10, 11]
        assert application._board.missed == 7


def test_domains_that_are_long_gone_are_forgotten_and_the_late_reader_begins_anew(
    world: World, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "HISTORY", 2)
    application = make()
    with serving(application) as server:
        domids = [world.host.create_domain() for _ in range(4)]
        with Browser(server) as browser:
            browser.until_domains(lambda domains: set(domids) <= set(domains))
        for domid in domids:
            world.host.destroy_domain(domid)
            until(lambda domid=domid: domid not in application._board._domains)  # type: ignore[misc]  # mypy infers no lambda that has a default
        with Browser(server, browser) as again:
            again.until_domains(lambda domains: not set(domids) & set(domains))
            assert again.anew


def test_a_domid_that_another_domain_took_shows_the_new_one(world: World, server: WSGIServer) -> None:
    domid = world.host.create_domain("old", domid=77)
    with Browser(server) as browser:
        browser.until_domains(lambda domains: domains.get(domid, {}).get("name") == "old")
        with world.host.quiet():
            world.host.destroy_domain(domid)
            world.host.create_domain("new", domid=77)
        browser.until_domains(lambda domains: domains[domid]["name"] == "new")
        assert browser.domains[domid]["uuid"] == str(uuid_of(world, domid))


def test_an_event_that_the_application_got_itself_can_be_shown(world: World, make: Make) -> None:
    ctx = world.open()
    application = make()
    domid = world.host.create_domain("web1")
    world.host.add_disk(domid, "hdc")
    with serving(application) as server, Browser(server) as browser, ctx.evenable_disk_eject(domid, "hdc"):
        world.host.eject_disk(domid, "hdc")
        application.show(ctx.event_wait(timeout=10))
        event = browser.next("event")
        assert (event["type"], event["vdev"]) == ("disk_eject", "hdc")


def test_nobody_elses_events_are_taken(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    application = Application(ctx)
    with ctx.evenable_domain_death(domid, user=7):
        world.host.destroy_domain(domid)
        assert ctx.event_wait(timeout=10).for_user == 7
    application.close()


def test_the_end_of_xenstored_is_shown_and_makes_health_fail(world: World, make: Make) -> None:
    application = make()
    client = Client(application)
    assert (client.get("/health").status_code, client.get("/health").json) == (200, {"status": "ok"})
    with serving(application) as server, Browser(server) as browser:
        browser.next("domains")
        world.host.drop_connections()
        assert "xenstored" in browser.next("problem")["problem"]
        assert client.get("/health").status_code == 503
        assert application.over.is_set()


def test_a_closed_application_sends_its_browsers_away(application: Application, server: WSGIServer) -> None:
    with Browser(server) as browser:
        browser.next("domains")
        application.close()
        assert browser.ended()
        assert application._board.readers == 0


def test_metrics_are_those_of_the_context_and_of_the_readers(world: World, application: Application) -> None:
    with serving(application) as server, Browser(server) as browser:
        browser.next("domains")
        text = Client(application).get("/metrics").text
    values = {family.name: family.samples[0].value for family in text_string_to_metric_families(text) if family.samples}
    assert (values["gxl_alive"], values["gxl_web_readers"]) == (1, 1)


@pytest.mark.parametrize("action", ["shutdown", "destroy"])
def test_who_has_the_token_may_do_what_is_allowed(world: World, make: Make, action: str) -> None:
    domid = world.host.create_domain("web1")
    client = Client(make(token=TOKEN, allow=["shutdown", "destroy"]))
    answer = client.post(f"/api/domains/{uuid_of(world, domid)}/{action}", headers=bearer())
    assert (answer.status_code, told(answer)["done"]) == (200, action)
    left = {info.domid: info for info in world.host.domains()}
    assert left[domid].shutdown if action == "shutdown" else domid not in left


def test_an_eject_names_the_drive_and_does_what_the_application_says(world: World, make: Make) -> None:
    ejected: list[tuple[int, str]] = []
    domid = world.host.create_domain("web1")
    client = Client(make(token=TOKEN, allow=["eject"], eject=lambda *disk: ejected.append(disk)))
    address = f"/api/domains/{uuid_of(world, domid)}/eject"
    for content in (None, {}, {"vdev": ""}, {"vdev": "../x"}, {"vdev": 7}, ["hdc"]):
        assert client.post(address, json=content, headers=bearer()).status_code == 400
    assert client.post(address, data="{", content_type="application/json", headers=bearer()).status_code == 400
    assert not ejected
    assert client.post(address, json={"vdev": "hdc"}, headers=bearer()).status_code == 200
    assert ejected == [(domid, "hdc")]


def test_an_eject_takes_the_medium_out_of_the_drive_by_default(world: World, make: Make) -> None:
    client = Client(make(token=TOKEN, allow=["eject"]))
    domid = world.host.create_domain("pv")
    answer = client.post(f"/api/domains/{uuid_of(world, domid)}/eject", json={"vdev": "hdc"}, headers=bearer())
    # libxl does it for HVM guests only, and says so.
    assert (answer.status_code, "cdrom_insert" in told(answer)["error"]) == (502, True)


def test_what_is_not_allowed_or_not_there_is_refused_and_nothing_happens(world: World, make: Make) -> None:
    domid = world.host.create_domain("web1")
    client = Client(make(token=TOKEN, allow=["shutdown"]))
    address = f"/api/domains/{uuid_of(world, domid)}"
    refused = client.post(f"{address}/destroy", headers=bearer())
    assert (refused.status_code, "destroy is not allowed" in told(refused)["error"]) == (403, True)
    assert client.post(f"/api/domains/{UUID(int=5)}/shutdown", headers=bearer()).status_code == 404
    assert client.post(f"/api/domains/{UUID(int=0)}/shutdown", headers=bearer()).status_code == 403
    assert client.post(f"/api/domains/{domid}/shutdown", headers=bearer()).status_code == 404
    assert client.get(f"{address}/shutdown", headers=bearer()).status_code == 405
    assert client.post(f"{address}/explode", headers=bearer()).status_code == 404
    assert world.host.domain_info(domid).running


def test_a_failing_operation_is_the_clients_to_know(world: World, make: Make) -> None:
    domid = world.host.create_domain("web1")
    client = Client(make(token=TOKEN, allow=["destroy"]))
    world.host.fail_next("destroydomain", 1)
    answer = client.post(f"/api/domains/{uuid_of(world, domid)}/destroy", headers=bearer())
    assert (answer.status_code, f"domain_destroy({domid})" in told(answer)["error"]) == (502, True)


def test_the_page_and_its_files_are_there_and_nothing_else_is(application: Application) -> None:
    client = Client(application)
    page = client.get("/")
    assert page.content_type == "text/html; charset=utf-8"
    for name in ("page.js", "page.css", "icon.svg"):
        found = client.get(f"/static/{name}")
        assert found.status_code == 200
        assert client.get(f"/static/{name}", headers={"If-None-Match": found.headers["ETag"]}).status_code == 304
    for name in ("../application.py", "..%2fapplication.py", "", "index.html/"):
        assert client.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/api/domains", "/nothing", "/health", "/metrics"])
def test_every_answer_forbids_what_the_page_does_not_need(application: Application, path: str) -> None:
    headers = Client(application).get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers


def test_names_go_out_as_json_whatever_they_are(world: World, application: Application) -> None:
    domid = world.host.create_domain("web1")
    name = b"</script><b>\n\nevent: forged\xff\r\rdata: {}\xe2\x80\xa8"
    world.host.write(f"/local/domain/{domid}/name", name)
    with serving(application) as server, Browser(server) as browser:
        world.host.destroy_domain(domid)
        event = browser.next("event")
        assert event["domid"] == domid
        assert browser.kinds == {"hello", "domains", "event"}


def test_a_context_of_another_hub_is_refused_with_what_to_do(world: World) -> None:
    with gxl.Context(world.engine(), "poll") as ctx, pytest.raises(gxl.MisuseError, match="hub='gevent'"):
        Application(ctx)


@pytest.mark.parametrize(
    ("how", "error", "named"),
    [
        ({"allow": ["destroy"]}, ValueError, "token"),
        ({"allow": ["explode"], "token": TOKEN}, ValueError, "explode"),
        ({"token": "short"}, ValueError, "16"),
        ({"token": "0123456789 abcdef"}, ValueError, "space"),
        ({"token": b"0123456789abcdef"}, TypeError, "bytes"),
        ({"hosts": "xen1"}, TypeError, "xen1"),
        ({"heartbeat": 0}, ValueError, "0"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_watched(
    world: World, how: dict[str, Any], error: type[Exception], named: str
) -> None:
    ctx = world.open()
    with pytest.raises(error, match=named):
        Application(ctx, **how)
    assert ctx.metrics().evgens == 0
    with pytest.raises(TypeError, match="Context"):
        Application("ctx")  # type: ignore[arg-type]  # that it is refused is what is tested


def test_a_closed_application_leaves_nothing_behind(world: World) -> None:
    world.host.create_domain()
    ctx = world.open()
    application = Application(ctx)
    assert ctx.metrics().evgens == 1
    application.close()
    application.close()
    assert ctx.metrics().evgens == 0
    assert not ctx._pump.followings


def test_events_in_json_are_those_that_gxl_reads_back(world: World, application: Application) -> None:
    domid = world.host.create_domain("web1")
    client = Client(application)
    until(lambda: domid in application._board._domains)
    world.host.destroy_domain(domid)
    until(lambda: told(client.get("/api/events"))["events"])
    (event,) = told(client.get("/api/events"))["events"]
    assert from_json(json.dumps(event)).domid == domid
