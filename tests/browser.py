"""A headless Chromium for tests of pages."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def browser_page(**options: Any) -> Iterator[Any]:
    """Provide a Playwright page; skip the test where there is no browser.

    The page's `requests` are the URLs it requested and its `errors` the console's errors.

    Args:
        **options: Options of Playwright's `new_page`, such as `viewport` and `color_scheme`.
    """
    if _CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        try:
            page = chromium.new_page(**options)
            page.requests, page.errors = [], []
            page.on("request", lambda request: page.requests.append(request.url))
            page.on("pageerror", lambda error: page.errors.append(str(error)))
            page.on(
                "console",
                lambda line: page.errors.append(line.text) if line.type == "error" else None,
            )
            yield page
        finally:
            chromium.close()
