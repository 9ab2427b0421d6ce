"""The pictures of the tutorial: its reader walks through it, with a browser. They are taken with `--pictures` alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from dagster_dev import serving, wait_until
from pages import config_line, filter_events, log, new_page, show_stdout, switch_of, take_picture
from tutorial import Reader

if TYPE_CHECKING:
    from pathlib import Path

    from dagster_dev import DagsterDev
    from playwright.sync_api import Browser, Page

FLOW = "WeatherFlow"
FILE = "weatherflow_dagster.py"


@pytest.fixture
def reader(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    if not request.config.getoption("--pictures"):
        pytest.skip("it takes the tutorial's pictures, with --pictures; tests/e2e/test_tutorial.py follows its words")
    monkeypatch.setenv("METAFLOW_USER", "ann")
    return Reader(tmp_path)


def test_tutorial_has_a_picture_of_each_step(reader: Reader, browser: Browser) -> None:
    reader.follow("A flow")
    reader.follow("Compile it, and run it on Dagster")
    with serving(reader.project, reader.home, FILE) as dev, new_page(browser, dev) as page:
        walk = _Walk(reader, dev, page)
        walk.look_at_runs()
        walk.see_a_failure()
        walk.see_an_asset()
        walk.retry()
        walk.backfill()
        walk.materialize()
    reader.follow("An asset that takes the result")
    with serving(reader.project, reader.home, "definitions.py") as dev, new_page(browser, dev) as page:
        walk = _Walk(reader, dev, page)
        walk.see_the_lineage()
        walk.schedule()


class _Walk:
    """The way of the reader through the UI, a method for each picture."""

    def __init__(self, reader: Reader, dev: DagsterDev, page: Page):
        from playwright.sync_api import expect

        self._reader = reader
        self._dev = dev
        self._page = page
        self._expect = expect

    def look_at_runs(self) -> None:
        self._size(1200, 800)
        (run,) = self._dev.runs()
        self._page.goto(f"/runs/{run}")
        show_stdout(self._page, "start")
        self._expect(log(self._page)).to_contain_text("2026-01-06 23:00")
        self._take("run")

        self._size(1200, 660)
        self._page.goto("/jobs")
        self._page.get_by_role("link", name=FLOW).click()
        self._page.get_by_role("tab", name="Launchpad").click()
        config_line(self._page, "day: ").click()
        self._page.keyboard.press("End")
        self._page.keyboard.press("Backspace")
        self._page.keyboard.type("7")
        self._expect(config_line(self._page, "day: 2026-01-07")).to_be_visible()
        self._expect(self._page.get_by_role("button", name="Launch Run")).to_be_enabled()
        self._take("launchpad")
        self._page.get_by_role("button", name="Launch Run").click()
        self._page.wait_for_url("**/runs/*")
        self._dev.wait_for(self._page.url.rpartition("/")[2], "SUCCESS")

    def see_a_failure(self) -> None:
        self._fail()
        self._page.get_by_text("Errored (1)").locator("xpath=following::*[text()='start'][1]").click()
        self._expect(self._page.get_by_text("ValueError: Invalid isoformat string: 'tomorrow'").first).to_be_visible()
        self._take("failure")

    def see_an_asset(self) -> None:
        self._size(1200, 790)
        self._page.goto(f"/assets/{FLOW}/summarize")
        self._expect(self._page.get_by_role("row", name=re.compile("^mean ")).first).to_be_visible()
        self._take("asset")

    def retry(self) -> None:
        self._reader.follow("Retries, a time limit, an environment")
        self._reload()
        self._size(1200, 800)
        self._fail()
        self._expect(self._page.get_by_text("Errored (1)")).to_be_visible()
        filter_events(self._page, "type:STEP_UP_FOR_RETRY")
        reason = "failed: ValueError: Invalid isoformat string: 'tomorrow'"
        self._expect(self._page.get_by_text(f"(attempt 1) {reason}").first).to_be_visible()
        self._take("retries")

    def backfill(self) -> None:
        self._reader.follow("A partition for each day")
        self._reload()
        self._size(1200, 660)
        self._page.goto("/jobs")
        self._page.get_by_role("link", name=FLOW).click()
        self._page.get_by_role("tab", name="Partitions").click()
        self._page.get_by_role("button", name="Launch backfill").click()
        dialog = self._page.get_by_role("dialog")
        days = dialog.get_by_role("textbox", name=re.compile("2026-01-01"))
        days.fill("[2026-01-08...2026-01-12]")
        days.press("Enter")
        submit = dialog.get_by_role("button", name="Submit 5 runs")
        self._expect(submit).to_be_enabled()
        self._take("backfill")
        before = set(self._dev.runs())
        submit.click()
        for run in wait_until(lambda: len(new := set(self._dev.runs()) - before) == 5 and new, "the runs of five days"):
            self._dev.wait_for(run, "SUCCESS")

    def materialize(self) -> None:
        before = set(self._dev.runs())
        self._reader.follow("Materialize a step")
        (run,) = set(self._dev.runs()) - before
        self._size(1200, 800)
        self._page.goto(f"/runs/{run}")
        self._expect(self._page.get_by_text("Succeeded (2)")).to_be_visible()
        filter_events(self._page, "is cloned from")
        self._expect(self._page.get_by_text(re.compile("start/start is cloned from")).first).to_be_visible()
        self._take("materialize")

    def see_the_lineage(self) -> None:
        self._size(1200, 560)
        self._page.goto("/assets/forecast?view=lineage&lineageScope=upstream&lineageDepth=5")
        for asset in ("start", "summarize", "forecast"):
            self._expect(self._page.locator("svg").get_by_text(asset, exact=True)).to_be_visible()
        self._expect(self._page.locator("svg").get_by_text(re.compile(r"^\d+ partitions$"))).to_have_count(3)
        self._take("lineage")

    def schedule(self) -> None:
        self._reader.follow("A schedule")
        self._reload()
        self._page.goto("/automation")
        self._expect(switch_of(self._page, f"{FLOW}_schedule")).to_be_checked()
        self._take("schedule")

    def _fail(self) -> None:
        run = self._dev.launch(FLOW, day="tomorrow")
        self._dev.wait_for(run, "FAILURE")
        self._page.goto(f"/runs/{run}")

    def _reload(self) -> None:
        self._page.goto("/locations")
        self._page.get_by_role("button", name="Reload all").click()
        self._expect(self._page.get_by_text("Loaded", exact=True).first).to_be_visible()

    def _size(self, width: int, height: int) -> None:
        self._page.set_viewport_size({"width": width, "height": height})

    def _take(self, name: str) -> None:
        take_picture(self._page, self._dev, f"tutorial-{name}")
