"""A real browser, without a window, that opens the server's page."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager

import pytest

from tests.server.conftest import Running

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="package")
def browser():
    """Chromium, driven by Playwright; the test is skipped where one of them is absent."""
    reason = "needs `pip install playwright`"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    # Playwright keeps an event loop in this thread: it ends with the folder's last test.
    with playwright.sync_playwright() as driver:
        path = next(
            filter(None, map(shutil.which, [*BROWSERS, driver.chromium.executable_path])), None
        )
        if path is None:
            pytest.skip(
                "needs Chromium: `apt-get install chromium` or `playwright install chromium`"
            )
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def context(browser):
    """What a browser keeps: settings, the conversation."""
    made = browser.new_context(viewport={"width": 1000, "height": 700})
    made.set_default_timeout(30_000)
    yield made
    made.close()


@pytest.fixture
def page(context, server: Running):
    """The page, opened for this test."""
    with opened(context, server.url) as made:
        yield made


@pytest.fixture(scope="module")
def modules(browser, shared: Running):
    """The page for tests that use its modules alone."""
    with browser.new_context() as context, opened(context, shared.url) as made:
        yield made


@contextmanager
def opened(context, url: str):
    """The page. Nothing may fail in it, and nothing may be asked of another address."""
    made = context.new_page()
    failures = []
    addresses = []
    made.on("pageerror", lambda error: failures.append(str(error)))
    made.on("console", lambda said: failures.append(said.text) if said.type == "error" else None)
    made.on("request", lambda request: addresses.append(request.url))
    made.goto(url)
    made.wait_for_selector("#question[placeholder='Ask tiny-chat']")
    yield made
    made.close()  # ends what is under way
    # Chromium itself notes each answer that is an error, also those that the page expects.
    assert [said for said in failures if not said.startswith("Failed to load resource")] == []
    assert [one for one in addresses if not one.startswith((url + "/", "data:", "blob:"))] == []


@pytest.fixture
def slow(server: Running, monkeypatch) -> None:
    """The model takes its time."""
    step = server.engine.step

    def wait_and_step() -> None:
        time.sleep(0.05)
        step()

    monkeypatch.setattr(server.engine, "step", wait_and_step)
