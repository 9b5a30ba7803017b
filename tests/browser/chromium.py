"""A headless Chromium that a test drives; what it logs is looked at when it closes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

DEADLINE_S = 30.0
OFFLINE = (
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",
)
DESKTOP, PHONE = (1400, 1000), (390, 844)

T = TypeVar("T")


class Browser:
    """One window of a size; a context manager. At its end nothing may have gone wrong on its console, save
    that a proxy that asks for keys (`keys`) refused some questions."""

    def __init__(self, size: tuple[int, int] = DESKTOP, *, dark: bool = False, keys: bool = False) -> None:
        self._keys = keys
        options = webdriver.ChromeOptions()
        for argument in OFFLINE:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = shutil.which("chromedriver")
        assert driver is not None, "chromedriver is not installed"
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        said = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        self.driver.quit()
        if error is None:
            wrong = [entry["message"] for entry in said if entry["level"] == "SEVERE"]
            assert [text for text in wrong if not (self._keys and " 401 " in text)] == []

    def _command(self, name: str, **parameters: Any) -> None:
        self.driver.execute_cdp_cmd(name, parameters)

    def open(self, url: str) -> None:
        """Go there and wait until figures are drawn."""
        self.driver.get(url)
        self.drawn()

    def log_in(self, secret: str) -> None:
        """Give a key to the page that asks for one."""
        self.until(lambda: self.one("#login").is_displayed())
        self.one("#key").send_keys(secret)
        self.one("#login button").click()

    def drawn(self) -> None:
        """Wait until figures are drawn."""
        self.until(lambda: self.script("return document.body.dataset.drawn !== undefined") or None)

    def script(self, text: str) -> Any:
        return self.driver.execute_script(text)

    def one(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        """What an element says; the page may be drawing it anew at the moment."""
        return self.until(lambda: self.one(css).text)

    def texts(self, css: str) -> list[str]:
        found: list[str] = self.script(
            f"return [...document.querySelectorAll({css!r})].map((element) => element.textContent)"
        )
        return found

    def until(self, condition: Callable[[], T | None]) -> T:
        """What `condition` gives once it is neither None nor False nor empty."""
        waiting = WebDriverWait(self.driver, DEADLINE_S, 0.1, (StaleElementReferenceException,))
        found: T = waiting.until(lambda _: condition() or False)
        return found
