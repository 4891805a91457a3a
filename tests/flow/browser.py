"""A headless Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium")

expect.set_options(timeout=60_000)


@dataclass
class Visit:
    """A page and its recorded events.

    Attributes:
        requests: URLs that the page requested.
        errors: Messages and errors of its console.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text))


@contextmanager
def browser(**window: Any) -> Iterator[Visit]:
    """Open a page in a fresh Chromium; `window` are arguments of Playwright's `new_page`."""
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False)
        yield Visit(chromium.new_page(**window))
        chromium.close()
