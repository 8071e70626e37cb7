"""Headless Chromium, driven through chromedriver, that tells of every error and every breach of a page's policy.

with browsing() as browser:
    browser.open(url)
    browser.wait("#runs .run")        -> the element
    assert browser.complaints() == []
"""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.limits import PATIENCE_SECONDS

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver here")
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
)


class Browser:
    """One window."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Loads a page."""
        self.driver.get(url)

    def size(self, width: int, height: int) -> None:
        """Makes the window as wide as a phone or a desk's."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Has the system prefer light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def run(self, script: str, *values: Any) -> Any:
        """Runs a script that returns something."""
        return self.driver.execute_script(script, *values)

    def all(self, css: str) -> list[Any]:
        """All elements that are there and shown."""
        return [node for node in self.driver.find_elements("css selector", css) if node.is_displayed()]

    def wait(self, css: str, text: str = "") -> Any:
        """The first shown element of that kind with that text in it, as soon as it is there."""
        return self.until(lambda: next((n for n in self.all(css) if text in n.text), None), f"{css} {text!r}")

    def until(self, asked: Callable[[], Any], what: str = "") -> Any:
        """What a question answers, as soon as that is something. A page that draws anew meanwhile is asked again."""
        from selenium.common.exceptions import StaleElementReferenceException

        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                if answer := asked():
                    return answer
            except StaleElementReferenceException:
                pass
            time.sleep(0.05)
        raise AssertionError(f"never there: {what}\n{self.driver.find_element('tag name', 'body').text}")

    def press(self, css: str, text: str = "") -> None:
        """Clicks what is there."""
        self.wait(css, text).click()

    def write(self, css: str, text: str) -> None:
        """Replaces what stands in a field."""
        field = self.wait(css)
        field.clear()
        field.send_keys(text)

    def complaints(self) -> list[str]:
        """Errors and breaches of a policy since they were last asked for."""
        return [row["message"] for row in self.driver.get_log("browser") if row["level"] in ("SEVERE", "WARNING")]

    def picture(self, path: Path) -> None:
        """Writes the whole page as a PNG."""
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        asked = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        path.write_bytes(base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", asked)["data"]))


@contextmanager
def browsing(width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """A browser that is gone afterwards, with all its processes."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for switch in (*SWITCHES, f"--window-size={width},{height}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        browser = Browser(driver)
        browser.size(width, height)
        yield browser
    finally:
        driver.quit()
