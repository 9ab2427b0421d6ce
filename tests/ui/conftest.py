"""A browser on a real `dagster dev`."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import pytest
from dagster_dev import DagsterDev, dagster_dev
from pages import TIMEOUT_MILLISECONDS, new_page, take_picture
from support import EXAMPLES, Project
from support import FLOWS as TEST_FLOWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, FloatRect, Page

FLOWS = {
    "TrainFlow": EXAMPLES / "train_flow.py",
    "SweepFlow": EXAMPLES / "sweep_flow.py",
    "DailyFlow": TEST_FLOWS / "daily.py",
    "PartitionedFlow": TEST_FLOWS / "partitioned.py",
}
OPTIONS = {"PartitionedFlow": ["--partition-by", "date=daily:2026-01-01"]}
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class TakePicture(Protocol):
    """Take a picture of the page, or of a part of it, if pictures are asked for."""

    def __call__(self, name: str, clip: FloatRect | None = None) -> None: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Without it the tests are skipped, but fail in CI, which could lose them unnoticed."""
    from playwright.sync_api import expect, sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        unavailable("there is no `chromium` on the PATH (Debian: apt-get install chromium)")
    expect.set_options(timeout=TIMEOUT_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


def unavailable(reason: str) -> NoReturn:
    """Skip the tests, or fail them in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def dev(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterDev]:
    """A running `dagster dev`, of which nothing is left afterwards."""
    with dagster_dev(tmp_path_factory.mktemp("ui"), FLOWS, of_flows=OPTIONS, more=shop) as dev:
        yield dev


def shop(project: Project) -> list[str]:
    """The example of a flow among assets, in a project."""
    for file in ("forecast_flow.py", "shop.py"):
        shutil.copy(EXAMPLES / file, project.folder)
    options = ("--partition-by", "day=daily:2026-01-01", "--depends-on", "raw/sales")
    project.compile("forecast_flow.py", *options, to="forecastflow_dagster.py")
    return ["shop.py"]


@pytest.fixture
def page(browser: Browser, dev: DagsterDev) -> Iterator[Page]:
    """A page of a browser that never saw Dagster before."""
    with new_page(browser, dev) as page:
        yield page


@pytest.fixture
def picture(request: pytest.FixtureRequest, page: Page, dev: DagsterDev) -> TakePicture:
    """Takes the README's pictures when the tests run with `--pictures`."""

    def take(name: str, clip: FloatRect | None = None) -> None:
        if request.config.getoption("--pictures"):
            take_picture(page, dev, name, clip)

    return take


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Say what the page showed when a test failed."""
    report = yield
    page: Page | None = getattr(item, "funcargs", {}).get("page")
    if report.when == "call" and report.failed and page is not None:
        report.sections.append(("page", f"{page.url}\n{page.locator('body').aria_snapshot()}"))
    return report
