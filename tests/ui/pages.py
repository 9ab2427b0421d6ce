"""What the tests do on the pages of Dagster's UI, and find there."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster_dev import DagsterDev
    from playwright.sync_api import Browser, FloatRect, Locator, Page

IMAGES = Path(__file__).parents[2] / "docs" / "images"
TIMEOUT_MILLISECONDS = 120_000  # generous: the machine may be busy
# Dagster greets a new browser with a dialog, unless it has seen it.
SEEN_GREETING = "localStorage.setItem('communityNux', '1')"
# A picture shows neither where the cursor was, nor the folders of the tests.
PREPARE_PICTURE = """places => {
    document.activeElement.blur();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode())
        for (const [folder, shown] of places)
            texts.currentNode.data = texts.currentNode.data.replaceAll(folder, shown);
}"""


@contextlib.contextmanager
def new_page(browser: Browser, dev: DagsterDev) -> Iterator[Page]:
    """A page of a browser that never saw Dagster before."""
    context = browser.new_context(
        base_url=dev.url, viewport={"width": 1200, "height": 900}, locale="en-US", timezone_id="UTC"
    )
    context.set_default_timeout(TIMEOUT_MILLISECONDS)
    context.add_init_script(SEEN_GREETING)
    yield context.new_page()
    context.close()


def take_picture(page: Page, dev: DagsterDev, name: str, clip: FloatRect | None = None) -> None:
    """Take a picture of a page, or of a part of it, into docs/images."""
    page.wait_for_load_state("networkidle")
    page.evaluate(PREPARE_PICTURE, [[str(dev.project.folder.parent), "~"], [sys.prefix, "~/.venv"]])
    page.screenshot(path=IMAGES / f"{name}.png", clip=clip, animations="disabled")


def config_line(page: Page, text: str) -> Locator:
    """A line of the launchpad's editor."""
    return page.locator("pre", has_text=text)


def show_stdout(page: Page, step: str) -> None:
    """Choose the stdout of a step on the page of a run, as soon as the step has one."""
    page.get_by_role("button", name="stdout").click()
    page.get_by_role("combobox").fill(step)
    page.get_by_role("menuitem", name=step, exact=True).click()


def log(page: Page) -> Locator:
    """The stdout that is shown; the page has the stderr, too, but hidden."""
    return page.get_by_role("code")


def filter_events(page: Page, query: str) -> None:
    page.get_by_role("textbox", name="Filter…").fill(query)


def run_link(page: Page, run: str) -> Locator:
    return page.get_by_role("link", name=run[:8])


def switch_of(page: Page, name: str) -> Locator:
    """The switch of a schedule or sensor on the page Automation."""
    row = page.get_by_role("link", name=name).locator("xpath=ancestor::*[.//input[@type='checkbox']][1]")
    return row.get_by_role("switch").or_(row.locator("input[type=checkbox]")).last
