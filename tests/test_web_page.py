# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page in a real browser, headless Chromium. The browser's driver blocks: the server runs in another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from requirements import Requirements
from selenium.webdriver import Chrome, ChromeOptions, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from gxl.simhost.remote import RemoteHost

ROOT = Path(__file__).parent.parent
TOKEN = "0123456789abcdef-token"
PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>&quot;\u202egnp"

# A host in the server's process, which does what it is told by lines of JSON: [method, arguments].
SERVER = """
import json, sys
import gevent
from gevent.fileobject import FileObject
from gevent.pywsgi import WSGIServer
import gxl
from gxl.engines.embedded import EmbeddedEngine
from gxl.web import Application

port, how = int(sys.argv[1]), json.loads(sys.argv[2])
host = gxl.SimHost()
with gxl.Context(EmbeddedEngine(host), "gevent") as ctx:
    application = Application(ctx, heartbeat=1.0, eject=host.eject_disk, **how)
    server = WSGIServer(("127.0.0.1", port), application, log=None, environ={"SERVER_NAME": "localhost"})
    server.start()
    print(server.server_port, flush=True)
    for line in FileObject(sys.stdin, "r"):
        method, arguments = json.loads(line)
        print(json.dumps(getattr(host, method)(*arguments)), flush=True)
    application.close()
    server.stop(1)
"""


class Host:
    """A simulated host and the web server that shows it, in a process of their own."""

    def __init__(self, port: int = 0, **how: Any) -> None:
        command = [sys.executable, "-c", SERVER, str(port), json.dumps(how)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self._answer())
        self.url = f"http://127.0.0.1:{self.port}/"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def do(self, method: str, *arguments: Any) -> Any:
        """Call a method of the SimHost."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, arguments]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._answer())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Page:
    """What somebody who sits before the browser sees and does."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)
        # Reloading would lose it.
        self.driver.execute_script("window.mark = 'the page that was opened'")

    def until(self, condition: Callable[[], object], seconds: float = 30) -> None:
        WebDriverWait(self.driver, seconds, 0.05).until(lambda _: condition(), f"the page does not: {self.text[:2000]}")

    @property
    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    @property
    def connection(self) -> str:
        return self.driver.find_element(By.ID, "connection").get_attribute("data-state") or ""

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    @property
    def rows(self) -> dict[str, str]:
        """The state of each domain, by name."""
        cells = "[...document.querySelectorAll('#rows tr')].map(row => [...row.children].map(cell => cell.textContent))"
        return {name: state for _, name, state, *_ in self.run(f"return {cells}")}

    @property
    def log(self) -> list[str]:
        """What the log says, latest first."""
        return list(self.run("return [...document.querySelectorAll('#log li')].map(li => li.textContent)"))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    @property
    def focused(self) -> str:
        """What has the focus: its accessible name."""
        return self.driver.switch_to.active_element.accessible_name

    def tab_to(self, name: str) -> None:
        """Press Tab until the focus is there, and see that it can be seen there."""
        for _ in range(60):
            self.press(Keys.TAB)
            if self.focused == name:
                style = self.run("return getComputedStyle(document.activeElement).outlineStyle")
                assert style != "none", f"the focus on {name} can't be seen"
                return
        raise AssertionError(f"Tab never comes to {name!r}")

    def is_the_one_that_was_opened(self) -> bool:
        return bool(self.run("return window.mark === 'the page that was opened'"))

    def complaints(self) -> list[str]:
        """What the browser found wrong, apart from servers that are not there."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]  # selenium's is not typed
        return [
            entry["message"] for entry in entries if "ERR_" not in entry["message"] and " 401 " not in entry["message"]
        ]


@pytest.fixture(scope="module")
def driver(require: Requirements, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = require.program("chromium")
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    flags += ["disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('chromium')}"]
    # Another than the machine's would slow down what has to happen within a while.
    for flag in [*flags, "disable-dev-shm-usage", "window-size=1280,800"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(require.program("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: Chrome) -> Iterator[Page]:
    page = Page(driver)
    driver.get_log("browser")  # type: ignore[no-untyped-call]  # selenium's is not typed
    yield page
    assert page.complaints() == []
    driver.get("about:blank")


@pytest.fixture
def start() -> Iterator[Callable[..., Host]]:
    started: list[Host] = []

    def start(*arguments: Any, **how: Any) -> Host:
        started.append(Host(*arguments, **how))
        return started[-1]

    yield start
    for host in started:
        host.close()


@pytest.fixture
def host(start: Callable[..., Host]) -> Host:
    return start()


def test_a_domain_dies_and_the_page_shows_it_without_reload(page: Page, host: Host) -> None:
    domid = host.do("create_domain", "web1")
    page.open(host.url)
    page.until(lambda: page.rows == {"Domain-0": "running", "web1": "running"})
    host.do("create_domain", "web2")
    page.until(lambda: "web2" in page.rows)
    host.do("shutdown_domain", domid, 3)
    page.until(lambda: page.rows["web1"] == "crashed")
    host.do("destroy_domain", domid)
    page.until(lambda: "web1" not in page.rows)
    page.until(lambda: len(page.log) == 2)
    assert [f"web1 {domid} is gone" in page.log[0], f"web1 {domid} crashed" in page.log[1]] == [True, True]
    assert page.is_the_one_that_was_opened()


def test_it_shows_what_the_real_libxenlight_reports(page: Page, served_host: tuple[RemoteHost, dict[str, str]]) -> None:
    host, variables = served_host
    host.reset()
    domid = host.create_domain("web1")
    served = subprocess.Popen(
        [sys.executable, "-m", "gxl", "serve", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "GXL_ENGINE": "libxl", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert served.stdout is not None
        page.open(served.stdout.readline().removeprefix("gxl: ").strip())
        page.until(lambda: page.rows.get("web1") == "running")
        assert "libxenlight" in page.text
        host.shutdown_domain(domid, 1)
        page.until(lambda: page.rows["web1"] == "asks for a reboot")
        host.drop_connections()
        page.until(lambda: any("events may have been missed" in line for line in page.log))
        host.destroy_domain(domid)
        page.until(lambda: "web1" not in page.rows)
        assert page.is_the_one_that_was_opened()
    finally:
        served.send_signal(signal.SIGTERM)
        served.communicate(timeout=30)


def test_it_survives_a_restart_of_the_server_and_says_so(page: Page, start: Callable[..., Host]) -> None:
    first = start()
    first.do("create_domain", "old")
    page.open(first.url)
    page.until(lambda: "old" in page.rows)
    first.close()
    page.until(lambda: page.connection == "lost")
    second = start(first.port)
    second.do("create_domain", "new")
    page.until(lambda: page.connection == "live" and "new" in page.rows)
    assert "old" not in page.rows
    assert "started anew" in page.log[0]
    second.do("create_domain", "newer")
    page.until(lambda: "newer" in page.rows)
    assert page.is_the_one_that_was_opened()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_nothing_to_scroll_sideways(page: Page, start: Callable[..., Host], scheme: str) -> None:
    host = start(token=TOKEN, private=False, allow=["shutdown", "destroy", "eject"])
    host.do("create_domain", "a-rather-long-name-" + "x" * 200)
    domid = host.do("create_domain", "web1")
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        page.open(host.url)
        host.do("shutdown_domain", domid, 3)
        page.until(lambda: page.rows.get("web1") == "crashed" and page.log)
        wide, seen = page.run("return [document.documentElement.scrollWidth, innerWidth]")
        assert (wide, seen) == (PHONE["width"], PHONE["width"])
        # Nor is anything cut off: every button is in sight, and large enough for a thumb.
        boxes = page.run("return [...document.querySelectorAll('#rows button')].map(b => b.getBoundingClientRect())")
        assert len(boxes) == 6
        assert all(box["left"] >= 0 and box["right"] <= seen and box["height"] >= 32 for box in boxes)
        dark = page.run("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, dark[4:-1].split(","))) < 380) == (scheme == "dark")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_all_of_it_can_be_done_by_keyboard(page: Page, start: Callable[..., Host]) -> None:
    host = start(token=TOKEN, private=False, allow=["shutdown", "destroy", "eject"])
    domid = host.do("create_domain", "web1")
    host.do("add_disk", domid, "hdc")
    host.do("create_domain", "web2")
    page.open(f"{host.url}#token={TOKEN}")
    page.until(lambda: {"web1", "web2"} <= page.rows.keys())
    page.tab_to("Skip to the domains")
    page.tab_to("Filter")
    page.press(*"web1")
    page.until(lambda: "1 of 3" in page.text)
    page.tab_to("Destroy web1")
    page.press(Keys.ENTER)
    page.until(lambda: "Destroy web1?" in page.text)
    page.press(Keys.ESCAPE)
    page.until(lambda: "Destroy web1?" not in page.text)
    assert page.focused == "Destroy web1"
    assert page.rows["web1"] == "running"
    page.press(Keys.ENTER)
    page.tab_to("Destroy")
    page.press(Keys.ENTER)
    page.until(lambda: "web1" not in page.rows)
    assert page.run("return document.activeElement.id") == "domains"  # not lost with the button that had the focus
    page.until(lambda: any("web1" in line and "is gone" in line for line in page.log))


def test_a_medium_is_ejected_from_the_drive_that_is_named(page: Page, start: Callable[..., Host]) -> None:
    host = start(token=TOKEN, private=False, allow=["eject"])
    domid = host.do("create_domain", "web1")
    host.do("add_disk", domid, "hdb")
    page.open(f"{host.url}#token={TOKEN}")
    page.until(lambda: "web1" in page.rows)
    page.driver.find_element(By.CSS_SELECTOR, "#rows [data-action=eject]").click()
    drive = page.driver.find_element(By.ID, "vdev")
    drive.clear()
    drive.send_keys("hdb")
    page.driver.find_element(By.ID, "confirm-go").click()
    page.until(lambda: page.run("return document.getElementById('outcome').textContent") == "web1: eject done")
    page.driver.find_element(By.CSS_SELECTOR, "#rows [data-action=eject]").click()
    drive.clear()
    drive.send_keys("xvdq")
    page.driver.find_element(By.ID, "confirm-go").click()
    # Refused by the host, as it has no such disk; the page says so.
    page.until(lambda: page.log and "xvdq" in page.log[0])
    assert [entry for entry in page.complaints() if "502" not in entry] == []


def test_hostile_names_are_text_and_nothing_else(page: Page, host: Host) -> None:
    domid = host.do("create_domain", HOSTILE)
    page.open(host.url)
    shown = HOSTILE.replace("\u202e", "\\u{202e}")
    page.until(lambda: shown in page.rows)
    host.do("destroy_domain", domid)
    page.until(lambda: page.log and shown in page.log[0])
    assert "owned" not in page.driver.title
    assert page.run("return document.querySelectorAll('#rows script, #rows img, #log script, #log img').length") == 0


def test_the_pages_policy_holds_in_the_browser(page: Page, host: Host) -> None:
    page.open(host.url)
    page.until(lambda: page.connection == "live")
    page.run("const s = document.createElement('style'); s.textContent = 'body{color:red}'; document.head.append(s)")
    with pytest.raises(Exception, match="TrustedHTML"):
        page.run("document.body.insertAdjacentHTML('beforeend', '<b>x</b>')")
    found = page.complaints()
    assert found
    assert all("Content Security Policy" in entry or "TrustedHTML" in entry for entry in found)


def test_the_page_asks_for_the_token_once_and_keeps_it_out_of_the_address(
    page: Page, start: Callable[..., Host]
) -> None:
    host = start(token=TOKEN)
    host.do("create_domain", "web1")
    page.open(host.url)
    page.until(lambda: page.connection == "refused" and "needs the token" in page.text)
    assert page.rows == {}
    page.press("wrong-wrong-wrong", Keys.ENTER)
    page.until(
        lambda: page.run("return document.getElementById('ask').open && document.getElementById('secret').value === ''")
    )
    page.press(TOKEN, Keys.ENTER)
    page.until(lambda: "web1" in page.rows)
    page.open(host.url)  # again, in the same tab
    page.until(lambda: "web1" in page.rows)
    page.run("sessionStorage.clear()")
    page.driver.get("about:blank")
    page.open(f"{host.url}#token={TOKEN}")
    page.until(lambda: "web1" in page.rows)
    assert TOKEN not in page.driver.current_url


def test_events_are_read_out_and_the_state_of_the_connection_is(page: Page, host: Host) -> None:
    page.open(host.url)
    page.until(lambda: page.connection == "live")
    domid = host.do("create_domain", "web1")
    page.until(lambda: "web1" in page.rows)
    host.do("destroy_domain", domid)
    page.until(lambda: page.log)
    page.until(lambda: page.run("return document.getElementById('log').getAttribute('aria-busy')") == "false")
    assert page.driver.find_element(By.ID, "log").aria_role == "log"
    assert page.driver.find_element(By.ID, "connection").aria_role == "status"
    assert page.run("return document.documentElement.lang") == "en"
    # On a phone rows are cards, and still rows of a table for those who hear them.
    assert page.driver.find_element(By.CSS_SELECTOR, "#rows tr").aria_role == "row"


def test_a_log_that_is_held_still_catches_up_when_it_is_let_go(page: Page, host: Host) -> None:
    page.open(host.url)
    page.until(lambda: page.connection == "live")
    page.driver.find_element(By.ID, "pause").click()
    domid = host.do("create_domain", "web1")
    page.until(lambda: "web1" in page.rows)
    host.do("destroy_domain", domid)
    page.until(lambda: "web1" not in page.rows)
    assert page.log == []
    page.driver.find_element(By.ID, "pause").click()
    page.until(lambda: len(page.log) == 1)


def test_the_example_in_one_file_shows_a_host_too(page: Page) -> None:
    example = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "web_toolstack.py"), "--sim"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert example.stdout is not None
        page.open(example.stdout.readline().strip())
        page.until(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "#domains button")) > 0)
        page.driver.find_element(By.CSS_SELECTOR, "#domains button").click()
        page.until(lambda: "domain_death" in page.driver.find_element(By.ID, "events").text)
    finally:
        example.kill()
        example.communicate()
