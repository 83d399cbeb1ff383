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


# Words whose contrast to their ground (WCAG 2.2, section 1.4.3) is below 4.5; those over pictures are left out.
_FAINT_WORDS = """
const parts = (color) => {
  const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
  return color.startsWith("color(srgb") ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
};
const over = (top, ground) => [0, 1, 2].map((i) => top[i] * top[3] + ground[i] * (1 - top[3]));
const luminance = (color) => color.map((part) => part / 255)
  .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
  .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const words = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join("").trim();
  const box = element.getBoundingClientRect();
  if (!words || !box.width || !box.height || arguments[0].some((over) => element.closest(over))) continue;
  let [ground, opacity, above] = [[255, 255, 255], 1, []];
  for (let one = element; one; one = one.parentElement) above.unshift(getComputedStyle(one));
  for (const style of above) {
    ground = over(parts(style.backgroundColor), ground);
    opacity *= style.opacity;
  }
  const ink = parts(above.at(-1).color);
  const [dark, light] = [luminance(over([...ink.slice(0, 3), ink[3] * opacity], ground)), luminance(ground)].sort(
    (a, b) => a - b);
  if ((light + 0.05) / (dark + 0.05) < 4.5) found.push(`${words.slice(0, 60)} (${above.at(-1).color})`);
}
return found;
"""


@contextmanager
def browser(profile: Path, width: int, height: int, dark: bool = False) -> Iterator[Any]:
    """
    A window of `width` x `height` pixels, with an empty profile. Below 500 pixels it is that of a telephone. `dark`:
    whether its user prefers dark pages.
    """
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
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
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


def faint_words(driver: Any, over: tuple[str, ...] = ()) -> list[str]:
    """Words of the page that have little contrast, but for those in elements of the selectors `over`."""
    return driver.execute_script(_FAINT_WORDS, over)


def save_page(driver: Any, path: Path) -> None:
    """A picture of the whole page, also of what does not fit the window."""
    width, height = driver.execute_script("return [innerWidth, document.documentElement.scrollHeight]")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(shot["data"]))
