"""The tutorial, word for word."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

from manual import TUTORIAL, blocks_of
from support import Project

if TYPE_CHECKING:
    from pathlib import Path

# Where the tutorial puts a block into the file that the reader has: a pattern of what it replaces.
PLACES = {
    "above the step start": r"    @step\n    def start\(self\):\n",
    "the import": r"from metaflow import .*\n",
    "above the class": r"class WeatherFlow\(FlowSpec\):\n",
}


def _edit(folder: Path, title: str, text: str) -> None:
    name, _, place = title.partition(": ")
    file = folder / name
    if place:
        text, changes = re.subn(PLACES[place], lambda _: text, file.read_text())
        assert changes == 1
    file.write_text(text)


def test_tutorial_leads_where_it_says(tmp_path):
    reader = Project.of(tmp_path / "weather")
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}")
    shown = []
    for block in blocks_of(TUTORIAL):
        if block.key == "not run":
            continue
        if block.title:
            _edit(reader.folder, block.title, block.text)
        elif block.language == "python":
            shown.append(subprocess.check_output([sys.executable, "-c", block.text], cwd=reader.folder, text=True))
        for command in block.commands if not block.language else ():
            program, *arguments = shlex.split(command)
            if program == "dagster":
                command_line = [sys.executable, "-m", "dagster", *arguments]
                env = {**os.environ, "DAGSTER_HOME": str(home)}
                subprocess.run(command_line, cwd=reader.folder, env=env, check=True, capture_output=True)
            else:
                shown.append(reader.metaflow(*arguments, DAGSTER_HOME=str(home)).stdout)

    assert "Dagster job WeatherFlow with 3 ops" in shown[0]
    (client,) = [text for text in shown if text.startswith("dagster-")]
    assert client.split()[1] == "True"
    assert "WeatherFlow_schedule: starts the flow every day at 00:00" in shown[-1]
    folder = reader.folder / ".metaflow" / "WeatherFlow"
    runs = [reader.metaflow_run("WeatherFlow", path.name) for path in folder.glob("dagster-*")]
    days = [run.data.day for run in runs if run.successful]
    # triggered, triggered with a partition, and made with the asset; the selection in between has no end step
    assert sorted(days) == ["2026-01-06", "2026-01-07", "2026-01-08"]
    assert len(runs) == 4
