"""Reporting a check from a step's code: what it takes, and what it prints."""

from __future__ import annotations

import math

import numpy as np
import pytest
from metaflow import dagster_check
from metaflow.exception import MetaflowException


def test_result_is_printed_where_no_task_runs(capsys):
    dagster_check.report("rows", np.bool_(True), metadata={"rows": np.int64(3), "columns": ["a", "b"], "table": None})
    dagster_check.report("rows", 0, severity="WARN", metadata={"share": {"raw_value": 0.5, "type": "float"}})
    dagster_check.report("rows", False, metadata={"share": math.nan})
    assert capsys.readouterr().out.splitlines() == [
        "Check rows passed: rows = 3, columns = ['a', 'b'], table = None",
        "Check rows failed (WARN): share = 0.5",
        "Check rows failed (ERROR): share = nan",
    ]


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("enough rows", {}, "letters, digits and underscores"),
        ("rows", {"severity": "error"}, "The severity of check rows is 'error'. Use WARN or ERROR."),
        ("rows", {"metadata": {"frame": object()}}, "The metadata frame of check rows can't be written as JSON"),
        ("rows", {"metadata": {"shares": [math.nan]}}, "The metadata shares of check rows can't be written as JSON"),
    ],
)
def test_wrong_report_is_refused(name, options, problem):
    with pytest.raises(MetaflowException, match=problem):
        dagster_check.report(name, True, **options)
