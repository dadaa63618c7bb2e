"""A headless Chromium for pages on disk: what they say on the console, what they ask for, how they look.

``python tests/helpers/browser.py PAGE OUT.png [WIDTH HEIGHT]`` takes a picture; a width below 600 is a phone.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip
PHONE = 600  # pixels; narrower is emulated as a phone
COLOURS = 256  # of a picture's palette


def missing() -> str | None:
    """Why there is no browser here, or None."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"no {program} (apt-get install chromium chromium-driver)"
    return None


@dataclass
class Browser:
    """``driver``: selenium's."""

    driver: Any

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        """Show a page from disk in a window of that size."""
        phone = width < PHONE
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(page.absolute().as_uri())

    def run(self, script: str) -> Any:
        return self.driver.execute_script(f"return {script}")

    def asked(self) -> list[str]:
        """Every address that the page asked for since the last look, also what its policy then refused."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        # The browser's own first page is in the log too.
        return [one["request"]["url"] for one in asked if one["documentURL"] == self.driver.current_url]

    def said(self) -> list[str]:
        """Everything on the console since the last look, errors of the content policy included."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def picture(self, path: Path) -> None:
        """What is seen now, as a PNG of few colours."""
        from PIL import Image

        taken = Image.open(io.BytesIO(base64.b64decode(self.driver.get_screenshot_as_base64()))).convert("RGB")
        taken.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with an empty profile, which ends with the context."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(shutil.which("chromedriver"))))
        try:
            yield Browser(driver)
        finally:
            driver.quit()


if __name__ == "__main__":
    source, out, *size = sys.argv[1:]
    with chromium() as browser:
        browser.open(Path(source), *map(int, size))
        browser.picture(Path(out))
