"""The page in a real browser against a real server: from the token to the report, on a desk and on a phone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import build_world
from tests.kit.browser import Browser, browsing, needs_chromium
from tests.kit.serving import Server, serving

pytestmark = [pytest.mark.slow, needs_chromium]
HOSTILE = "深度学习 <img src=x onerror=alert(1)>"
DETAIL = ".detail .moves"
PLACE = f"return document.querySelector('{DETAIL}').getBoundingClientRect().top + scrollY"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    build_world(folder, 5, missing=0.3).prepare()
    with serving(folder, "--max-jobs", "1") as server:
        yield server


@pytest.fixture
def browser(server: Server) -> Iterator[Browser]:
    with browsing() as made:
        made.open(server.url)
        made.write("#token", server.token)
        made.press("#entry button")
        made.wait("#new")
        yield made
        assert made.complaints() == []
        assert made.run("return window.alerted") is None


def begin(browser: Browser, name: str, epochs: int) -> None:
    """Starts a run by the form."""
    browser.press("#new")
    browser.until(lambda: browser.run("return document.querySelector('[name=dataset]').options.length") == 2)
    browser.write("[name=name]", name)
    chosen = "const choose = document.querySelector('[name=dataset]'); choose.value = 'rows';"
    browser.run(f"{chosen} choose.dispatchEvent(new Event('change'))")
    for field, text in {
        "epochs": epochs,
        "early_stopping_patience": epochs,
        "hidden_units": "8, 4",
        "batch_size": 16,
    }.items():
        browser.write(f"[name={field}]", str(text))
    browser.press("dialog summary")
    browser.run("document.querySelector('[name=target_column]').value = 'target'")
    for column in ("feature1", "feature2", "feature3"):
        browser.press(f"[name=feature_columns][value={column}]")
    browser.press("dialog [type=submit]")
    browser.until(lambda: not browser.all("dialog"))


def told_epochs(browser: Browser) -> int:
    """Up to which epoch the curve is drawn."""
    label = browser.run("return document.querySelector('.plot')?.getAttribute('aria-label') ?? ''")
    words = str(label).partition(": after ")[2].split()
    return int(words[0]) if words and words[0].isdigit() else 0


def grown(browser: Browser, than: int) -> int:
    return int(browser.until(lambda: (now := told_epochs(browser)) > than and now, f"an epoch after {than}"))


def pid(server: Server) -> int:
    return next(row["pid"] for row in server.call("GET", "/jobs")["jobs"] if row["pid"])


def test_a_run_is_started_watched_paused_killed_and_resumed_without_a_reload(server: Server, browser: Browser) -> None:
    browser.run("window.loaded = 'once'")
    begin(browser, HOSTILE, 100_000)
    browser.wait(".detail h2", HOSTILE)
    assert browser.all(".detail h2 img") == browser.all("#runs img") == []
    seen = grown(browser, grown(browser, 0))
    assert browser.all(".plot canvas")
    browser.press(f"{DETAIL} .pause")
    browser.wait(".detail .badge", "Paused")
    assert [button.text for button in browser.all(f"{DETAIL} button")] == ["Resume", "Stop", "Remove"]
    place = browser.run(PLACE)
    browser.press(f"{DETAIL} .resume")
    browser.wait(".detail .badge", "Running")
    seen = grown(browser, max(seen, told_epochs(browser)))
    os.kill(pid(server), signal.SIGKILL)
    browser.wait(".detail .badge", "Interrupted")
    browser.wait("#runs .resume", "Resume")
    browser.wait(".reason", "goes on from its last checkpoint")
    assert browser.run(PLACE) == place, "a reason that comes moves no button away from a pointer"
    browser.press("#runs .resume")
    browser.wait(".detail .badge", "Running")  # else the server could be killed with the request on its way
    seen = grown(browser, told_epochs(browser))
    server.kill()
    browser.wait("#line", "Trainings go on")
    browser.press(f"{DETAIL} .pause")
    browser.wait("#told", "The server did not answer")
    assert browser.run(PLACE) == place
    server.options = (*server.options, "--port", server.url.rpartition(":")[2])
    server.begin()
    browser.until(lambda: not browser.all("#line"))
    seen = grown(browser, seen)
    assert any("ERR_CONNECTION_REFUSED" in line or "ERR_" in line for line in browser.complaints())
    assert browser.run("return window.loaded") == "once"
    browser.open(server.url)  # loading again shows all again, without a token being asked for
    assert grown(browser, 0) >= seen
    browser.press(f"{DETAIL} .stop")
    browser.wait(".detail .badge", "Stopped")
    browser.wait(f"{DETAIL} .resume", "Resume")


def test_a_run_ends_and_its_report_opens_in_an_origin_of_its_own(server: Server, browser: Browser) -> None:
    begin(browser, "short", 3)
    browser.wait(".detail .badge", "Completed")
    browser.wait(".tiles b", "3 / 3")
    assert len(browser.until(lambda: browser.all(".detail details[open] tbody tr"))) >= 1
    browser.press(".detail .report button", "Make report")
    browser.wait(".detail .report", "up to date")
    browser.press(".detail .report button", "Open report")
    browser.until(lambda: len(browser.driver.window_handles) == 2)
    browser.driver.switch_to.window(browser.driver.window_handles[1])
    browser.wait("h1")
    assert server.token not in browser.driver.current_url
    storage = "try { return sessionStorage.length } catch (error) { return error.name }"
    assert browser.run(storage) == "SecurityError"
    colours = "return [getComputedStyle(document.body).backgroundColor, document.styleSheets.length, window.origin]"
    assert browser.run(colours) == ["rgb(250, 249, 246)", 1, "null"]
    browser.run(
        "document.querySelector('.hit, svg g')?.dispatchEvent(new PointerEvent('pointermove', {bubbles: true}))"
    )
    assert browser.complaints() == []
    browser.driver.close()
    browser.driver.switch_to.window(browser.driver.window_handles[0])


def test_a_wrong_field_is_named_at_its_field_and_a_wrong_token_is_asked_again(server: Server, browser: Browser) -> None:
    browser.press("#new")
    browser.until(lambda: browser.run("return document.querySelector('[name=dataset]').options.length") == 2)
    browser.write("[name=name]", "wrong")
    browser.write("[name=hidden_units]", "8, 0")
    browser.press("dialog [type=submit]")
    browser.wait("dialog .fault", "greater than or equal to 1")
    assert browser.driver.switch_to.active_element.get_attribute("name") == "hidden_units"
    browser.press("dialog .cancel")
    browser.press("#leave")
    browser.write("#token", "wrong")
    browser.press("#entry button")
    browser.wait("#refused", "does not know this token")
    assert browser.run("return sessionStorage.length") == 0
    assert {"422", "401"} <= {code for line in browser.complaints() for code in ("401", "422") if code in line}


def test_it_can_be_used_by_keys_alone(server: Server, browser: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def focused() -> Any:
        return browser.driver.switch_to.active_element

    def tab_to(name: str) -> None:
        for _ in range(60):
            ActionChains(browser.driver).send_keys(Keys.TAB).perform()
            if focused().accessible_name.startswith(name):
                return
        raise AssertionError(f"no way to {name}")

    browser.run("document.body.focus()")
    tab_to("New run")
    focused().send_keys(Keys.ENTER)
    browser.wait("dialog h2", "New run")
    browser.until(lambda: focused().get_attribute("name") == "name")
    focused().send_keys("by keys")
    tab_to("Start")
    focused().send_keys(Keys.ESCAPE)
    browser.until(lambda: not browser.all("dialog"))
    tab_to("Loss of")
    first = browser.wait(".told").text
    focused().send_keys(Keys.HOME)
    browser.wait(".told", "epoch 1: ")
    assert first.startswith("after ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_system_in_light_and_dark(
    server: Server, browser: Browser, scheme: str
) -> None:
    browser.size(390, 844)
    browser.prefer(scheme)
    browser.run("location.reload()")
    browser.wait("#runs .run")
    browser.wait(".dates .states")
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    browser.press("#new")
    browser.wait("dialog h2")
    assert browser.run("return document.querySelector('dialog').scrollWidth") <= 390
    browser.press("dialog .cancel")
    ground = "return getComputedStyle(document.body).backgroundColor"
    colours = {"light": "rgb(250, 249, 246)", "dark": "rgb(20, 23, 26)"}
    assert browser.run(ground) == colours[scheme]
    other = {"light": "dark", "dark": "light"}[scheme]
    browser.until(lambda: browser.press("#theme") or other in browser.wait("#theme").text)
    assert browser.run(ground) == colours[other]


def test_every_control_has_a_name_and_every_picture_a_text(server: Server, browser: Browser) -> None:
    browser.wait(".dates .states")
    assert nameless(browser, "body") == []
    browser.press("#new")  # what is behind an open dialog cannot be reached
    browser.wait("dialog h2")
    assert nameless(browser, "dialog") == []


def nameless(browser: Browser, place: str) -> list[str | None]:
    """The controls and pictures in a place that are shown without a name."""
    kinds = ", ".join(f"{place} {kind}" for kind in ("button", "input", "select", "progress", "a", "[role=img]"))
    return [node.get_attribute("outerHTML") for node in browser.all(kinds) if not node.accessible_name]
