"""Dagster's UI, as a user sees it and acts in it. With `--pictures`, the same takes the README's pictures."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
from dagster_dev import LOCATION, wait_until
from pages import config_line, filter_events, log, run_link, show_stdout, switch_of

try:
    from playwright.sync_api import Locator, Page, expect
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("Playwright is not installed (pip install -e '.[dev]')", allow_module_level=True)

if TYPE_CHECKING:
    from conftest import TakePicture
    from dagster_dev import DagsterDev


@pytest.fixture(scope="module")
def failed_run(dev: DagsterDev) -> str:
    """A run of which both fitting steps fail, one of them after its retries."""
    run = dev.launch("TrainFlow", learning_rate=-0.1)
    dev.wait_for(run, "FAILURE")
    return run


@pytest.fixture(scope="module")
def trained_runs(dev: DagsterDev, request: pytest.FixtureRequest) -> list[str]:
    """Runs with different scores; those for a picture make a learning curve."""
    runs = []
    pictures = request.config.getoption("--pictures")
    for epochs in (1, 2, 3, 5, 10, 100) if pictures else (1, 30):
        runs.append(dev.launch("TrainFlow", epochs=epochs))
        dev.wait_for(runs[-1], "SUCCESS")
    return runs


def test_events_and_stdout_arrive_while_the_step_runs(page: Page, dev: DagsterDev, picture: TakePicture) -> None:
    run = dev.launch("TrainFlow", epochs=2000, learning_rate=0.01, pause=0.5)
    page.goto(f"/runs/{run}")
    filter_events(page, "attempt 1 of")
    expect(page.get_by_text("Attempt 1 of Metaflow task").first).to_be_visible()
    show_stdout(page, "fit_quadratic (Attempt #2)")
    expect(log(page)).to_contain_text("epoch 0: accuracy")
    seen = int(re.findall(r"epoch (\d+):", log(page).inner_text())[-1])
    expect(log(page)).to_contain_text(f"epoch {seen + 30}: accuracy")
    assert dev.run(run)["status"] == "STARTED"
    assert dev.step_status(run, "fit_quadratic") == "IN_PROGRESS"
    picture("run", {"x": 0, "y": 0, "width": 1200, "height": 660})

    page.get_by_role("button", name="Terminate").click()
    page.get_by_role("dialog").get_by_role("button", name="Terminate 1 run").click()
    expect(page.get_by_text("Canceled", exact=True)).to_be_visible()
    expect(log(page)).to_contain_text("epoch 0: accuracy")


def test_failed_step_shows_the_users_exception(page: Page, failed_run: str, picture: TakePicture) -> None:
    page.set_viewport_size({"width": 1400, "height": 900})
    page.goto(f"/runs/{failed_run}")
    errored = page.get_by_text("Errored (2)").locator("xpath=following::*[text()='fit_linear'][1]")
    errored.click()
    message = "Step fit_linear of flow TrainFlow (attempt 0) failed: ValueError: the learning rate must be positive"
    expect(page.get_by_text(message).first).to_be_visible()
    picture("failure")

    page.get_by_role("row", name="traceback").first.get_by_text("Show Markdown").click()
    dialog = page.locator("[role=dialog][aria-modal=true]")  # a popover that has been closed is a dialog, too
    expect(dialog).to_contain_text(re.compile(r'File ".*/train_flow.py", line \d+, in fit_linear'))
    expect(dialog).to_contain_text('raise ValueError(f"the learning rate must be positive, not {learning_rate}")')
    expect(dialog).to_contain_text("ValueError: the learning rate must be positive, not -0.1")


def test_retry_says_why(page: Page, failed_run: str) -> None:
    page.goto(f"/runs/{failed_run}")
    filter_events(page, "type:STEP_UP_FOR_RETRY")
    reason = "(attempt 0) failed: ConnectionError: the data server did not answer (a simulated failure)"
    expect(page.get_by_text(reason).first).to_be_visible()
    page.get_by_role("button", name="View full message").first.click()
    dialog = page.locator("[role=dialog][aria-modal=true]")  # a popover that has been closed is a dialog, too
    expect(dialog).to_contain_text(reason)
    expect(dialog).to_contain_text(re.compile(r'File ".*/train_flow.py", line \d+, in fit_quadratic'))


@pytest.mark.usefixtures("trained_runs")
def test_asset_shows_the_artifacts_and_plots_the_numbers_of_all_runs(page: Page, picture: TakePicture) -> None:
    page.goto("/assets/TrainFlow/choose")
    expect(page.get_by_text("Keep the better model.")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("^best_model .* quadratic$"))).to_be_visible()
    expect(page.get_by_role("row", name=re.compile(r"^best_score .* 0\.\d+$"))).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("^weights list"))).to_be_visible()

    page.get_by_role("button", name="Plots").click()
    plot = page.get_by_text("best_score", exact=True).locator("xpath=following::canvas[1]")
    wait_until(lambda: drawn_share(plot) > 0.5, "a line through the scores of all runs")
    picture("asset", {"x": 0, "y": 0, "width": 1200, "height": 790})


@pytest.mark.usefixtures("trained_runs")
def test_lineage_shows_the_flows_graph(page: Page, picture: TakePicture) -> None:
    page.set_viewport_size({"width": 1200, "height": 560})
    page.goto(f"/locations/{LOCATION}/asset-groups/TrainFlow")
    for step in ("start", "fit_linear", "fit_quadratic", "choose", "end"):
        expect(page.locator("svg").get_by_text(step, exact=True)).to_be_visible()
    expect(page.locator("svg path[marker-end]")).to_have_count(5)
    picture("lineage", {"x": 240, "y": 0, "width": 960, "height": 560})


def test_lineage_shows_a_flow_among_other_assets(page: Page, picture: TakePicture) -> None:
    page.set_viewport_size({"width": 1640, "height": 760})
    page.goto("/assets/ForecastFlow/fit?view=lineage&lineageScope=neighbors&lineageDepth=5")
    for asset in ("sales", "start", "fit", "end", "report"):
        expect(page.locator("svg").get_by_text(asset, exact=True)).to_be_visible()
    expect(page.locator("svg path[marker-end]")).to_have_count(4)
    picture("shop", {"x": 240, "y": 160, "width": 1330, "height": 600})


@pytest.mark.usefixtures("trained_runs")
def test_materialize_runs_the_selected_steps_and_clones_those_before(page: Page, dev: DagsterDev) -> None:
    before = set(dev.runs())
    page.goto(f"/locations/{LOCATION}/asset-groups/TrainFlow")
    graph = page.locator("svg")
    expect(graph.get_by_text("choose", exact=True)).to_be_visible()
    expect(page.get_by_text("External Asset")).to_have_count(0)
    graph.get_by_text("choose", exact=True).click()
    page.get_by_role("button", name=re.compile("Materialize selected$")).click()
    (run,) = wait_until(lambda: set(dev.runs()) - before, "a run of the selection")
    dev.wait_for(run, "SUCCESS")

    page.goto(f"/runs/{run}")
    for step in ("start", "choose"):
        expect(page.get_by_text(f"TrainFlow.{step}", exact=True).first).to_be_visible()
    filter_events(page, "is cloned from")
    expect(page.get_by_text(re.compile("start/start is cloned from TrainFlow/dagster-")).first).to_be_visible()


def test_backfill_of_two_days_makes_two_green_partitions(page: Page, dev: DagsterDev) -> None:
    page.goto(f"/locations/{LOCATION}/jobs/PartitionedFlow/partitions")
    page.get_by_role("button", name="Launch backfill").click()
    dialog = page.get_by_role("dialog")
    days = dialog.get_by_role("textbox", name=re.compile("2026-01-01"))
    days.fill("[2026-01-05...2026-01-06]")
    days.press("Enter")
    before = set(dev.runs())
    dialog.get_by_role("button", name="Submit 2 runs").click()
    runs = wait_until(lambda: len(new := set(dev.runs()) - before) == 2 and new, "the runs of two days")
    for run in runs:
        dev.wait_for(run, "SUCCESS")

    page.goto("/assets/PartitionedFlow/end?view=partitions")
    expect(page.get_by_text("Materialized (2)").first).to_be_visible()
    expect(page.get_by_text("Failed (0)").first).to_be_visible()


def test_launchpad_offers_the_parameters_and_launches_with_a_changed_one(
    page: Page, dev: DagsterDev, picture: TakePicture
) -> None:
    page.set_viewport_size({"width": 1200, "height": 660})
    page.goto("/jobs")
    page.get_by_role("link", name="TrainFlow").click()
    page.get_by_role("tab", name="Launchpad").click()
    for default in ("epochs: 30", "learning-rate: 0.1", "pause: 0.0", "size: 300"):
        expect(config_line(page, default)).to_be_visible()

    config_line(page, "size: 300").click()  # in the middle of the editor, behind the text
    expect(page.get_by_text("/* How many points to draw. */")).to_be_visible()
    page.keyboard.type("0")
    expect(config_line(page, "size: 3000")).to_be_visible()
    launch = page.get_by_role("button", name="Launch Run")
    expect(launch).to_be_enabled()
    picture("launchpad")
    launch.click()

    page.wait_for_url("**/runs/*")
    run = page.url.rpartition("/")[2]
    assert "size: 3000\n" in dev.run(run)["runConfigYaml"]
    show_stdout(page, "start")
    expect(log(page)).to_contain_text("3000 points, ")


def test_run_is_found_by_its_metaflow_run_id(page: Page, failed_run: str, trained_runs: list[str]) -> None:
    page.goto("/runs")
    expect(run_link(page, trained_runs[0])).to_be_visible()
    page.get_by_text(f"metaflow/run_id: dagster-{failed_run}").hover()
    page.get_by_role("button", name="Add tag to filter").click()
    expect(run_link(page, trained_runs[0])).to_be_hidden()
    expect(run_link(page, failed_run)).to_be_visible()


def test_each_task_of_a_foreach_has_its_own_log(page: Page, dev: DagsterDev) -> None:
    run = dev.launch("SweepFlow", starts=2)
    dev.wait_for(run, "SUCCESS")
    page.goto(f"/runs/{run}")
    for index, other in ((0, 1), (1, 0)):
        show_stdout(page, f"descend[{index}]")
        expect(log(page)).to_contain_text(f"point {index}: from")
        expect(log(page)).not_to_contain_text(f"point {other}: from")


@pytest.mark.parametrize("name", ["DailyFlow_schedule", "DailyFlow_trigger"])
def test_automation_page_shows_the_flows_schedule_and_sensor_as_running(page: Page, name: str) -> None:
    page.goto("/automation")
    expect(page.get_by_role("link", name=name)).to_be_visible()
    expect(switch_of(page, name)).to_be_checked()


def drawn_share(canvas: Locator) -> float:
    """The part of a plot's width that its line takes: the line alone is blue."""
    return canvas.evaluate(
        """canvas => {
            const {width, height} = canvas;
            const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            const columns = [];
            for (let i = 0; i < pixels.length; i += 4)
                if (pixels[i + 2] - pixels[i] > 100 && pixels[i + 3] > 200) columns.push((i / 4) % width);
            return columns.length && (Math.max(...columns) - Math.min(...columns)) / width;
        }"""
    )
