"""The tags of a run that resumes another, and what they ask for."""

from __future__ import annotations

import dagster as dg
import pytest
from models import runtime_flow

from metaflow_pipes.runtime import MetaflowFlow, MetaflowParameter, MetaflowStep
from metaflow_pipes.runtime.resume import overridden_parameters, steps_to_rerun


@pytest.fixture
def flow(tmp_path) -> MetaflowFlow:
    return runtime_flow(
        tmp_path,
        parameters=[MetaflowParameter("alpha", "float"), MetaflowParameter("beta", "str")],
        steps=[
            MetaflowStep("start"),
            MetaflowStep("left", ["start"]),
            MetaflowStep("loop", ["start", "loop"]),
            MetaflowStep("after", ["loop"]),
            MetaflowStep("join", ["left", "after"]),
            MetaflowStep("end", ["join"]),
        ],
    )


@pytest.mark.parametrize(
    ("step", "rerun"),
    [
        (None, set()),
        ("end", {"end"}),
        ("left", {"left", "join", "end"}),
        ("loop", {"loop", "after", "join", "end"}),
        ("start", {"start", "left", "loop", "after", "join", "end"}),
    ],
)
def test_step_is_rerun_with_all_below_it(flow, step, rerun):
    assert steps_to_rerun(flow, step) == rerun


def test_unknown_step_is_refused_with_the_steps_there_are(flow):
    with pytest.raises(dg.Failure, match=r"names 'x'.* flow SomeFlow.* start, left, loop, after, join, end\."):
        steps_to_rerun(flow, "x")


def test_overridden_parameters_are_a_json_list(flow):
    assert overridden_parameters(flow, "[]") == []
    assert overridden_parameters(flow, '["beta", "alpha"]') == ["beta", "alpha"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alpha", r"is a JSON list of names"),
        ('{"alpha": 1}', r"is a JSON list of names"),
        ('["gamma", 3]', r"names gamma, 3, .* Its parameters are alpha, beta\."),
    ],
)
def test_other_overridden_parameters_are_refused(flow, text, message):
    with pytest.raises(dg.Failure, match=message) as raised:
        overridden_parameters(flow, text)
    assert raised.value.allow_retries is False
