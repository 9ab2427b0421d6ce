"""The tutorial, word for word."""

from __future__ import annotations

from tutorial import SECTIONS, Reader


def test_tutorial_leads_where_it_says(tmp_path):
    reader = Reader(tmp_path)
    shown = [text for section in SECTIONS for text in reader.follow(section)]

    assert "Dagster job WeatherFlow with 3 ops" in shown[0]
    (client,) = [text for text in shown if text.startswith("dagster-")]
    assert client.split()[1] == "True"
    assert "WeatherFlow_schedule: starts the flow every day at 00:00" in shown[-1]
    folder = reader.project.folder / ".metaflow" / "WeatherFlow"
    runs = [reader.project.metaflow_run("WeatherFlow", path.name) for path in folder.glob("dagster-*")]
    days = [run.data.day for run in runs if run.successful]
    # triggered, triggered with a partition, and made with the asset; the selection in between has no end step
    assert sorted(days) == ["2026-01-06", "2026-01-07", "2026-01-08"]
    assert len(runs) == 4
