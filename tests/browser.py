"""Chromium, driven by selenium, for the tests of the demo's page."""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

#: Nothing but the page under test is asked for; without a sandbox, as in containers.
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--proxy-server=direct://",
)


@contextmanager
def browser(profile: Path, width: int, height: int) -> Iterator[Any]:
    """A window of `width` x `height` pixels, with an empty profile. Below 500 pixels it is that of a telephone."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*_FLAGS, f"--window-size={max(width, 500)},{height}", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        if width < 500:
            screen = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        yield driver
    finally:
        driver.quit()


def hosts_asked(driver: Any) -> set[str]:
    """Hosts and ports of all requests since the last call, of the page and of what it loads."""
    found = set()
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            address = message["params"].get("url") or message["params"]["request"]["url"]
            # Not the browser's own pages, nor data in the page.
            if urlsplit(address).scheme in ("http", "https", "ws", "wss", "ftp"):
                found.add(urlsplit(address).netloc)
    return found


def save_page(driver: Any, path: Path) -> None:
    """A picture of the whole page, also of what does not fit the window."""
    width, height = driver.execute_script("return [innerWidth, document.documentElement.scrollHeight]")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(shot["data"]))
