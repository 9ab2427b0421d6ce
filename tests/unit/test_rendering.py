"""Rendering: whatever the values hold, the file's structure stays and the values come back."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import flow_model, step_model

from metaflow_pipes.compile.flow_model import ParameterModel
from metaflow_pipes.compile.job_options import FromRunEnvironment, JobOptions
from metaflow_pipes.compile.lowering import lower
from metaflow_pipes.compile.rendering import render
from metaflow_pipes.compile.source import literal

DEFINITIONS = Path("/project/defs.py")

hostile_text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(
        [
            '"""',
            "'''",
            "{{ 1 }}",
            "{% raw %}",
            "\\",
            "\n",
            "\r\n",
            '"\n)\nimport os\n',
            "# noqa",
            "$(x)",
            "\u2028",
            "\x00",
        ]
    ),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | hostile_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hostile_text, inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.integers(0, 80))
def test_literal_evaluates_to_its_value(value, indent):
    assert eval(literal(value, indent), {"float": float}) == value


def test_literal_of_nan():
    assert math.isnan(eval(literal(math.nan), {"float": float}))


def _structure(source: str) -> list[str]:
    """The statements of a file, without what their literals hold."""
    return [f"{type(node).__name__} {getattr(node, 'name', '')}" for node in ast.parse(source).body]


@settings(deadline=None)  # a busy machine is no fault of the template
@given(
    docstring=hostile_text,
    default=json_values,
    help_=hostile_text,
    tag=hostile_text.filter(lambda text: 0 < len(text) < 100),
    environment=st.dictionaries(
        hostile_text.filter(lambda text: text and not {"=", "\0"} & set(text)),
        hostile_text.filter(lambda text: "\0" not in text),
        max_size=3,
    ),
    config=json_values,
    path=st.from_regex(r"/[a-z '\"\\{}%]{1,8}/[a-z'\"#\n]{1,6}\.py", fullmatch=True),
)
def test_hostile_values_change_no_structure(docstring, default, help_, tag, environment, config, path):
    step = replace(step_model("start"), description=docstring, environment=environment, resources={"cpu": tag})
    parameter = ParameterModel("p", "json", has_default=True, default=default, help=help_)
    flow = replace(
        flow_model(step),
        description=docstring,
        file=path,
        parameters=(parameter,),
        configs={"c": (config, False)},
        top_level_args=(tag,),
        settings={"METAFLOW_X": tag},
        user=tag,
    )
    options = JobOptions(tags=(tag,), namespace=tag, step_env={**environment, "K": FromRunEnvironment(tag)})
    plain = render(lower(flow_model(step_model("start")), JobOptions()), DEFINITIONS)
    assert _structure(render(lower(flow, options), Path(path))) == _structure(plain)


def test_same_job_gives_the_same_text():
    job = lower(flow_model(step_model("start"), step_model("end", "start")), JobOptions(step_env={"B": "1", "A": "2"}))
    assert render(job, DEFINITIONS) == render(job, DEFINITIONS)


@pytest.mark.parametrize(
    ("root", "definitions", "expected"),
    [
        ("/project/.metaflow", "/project/defs.py", ".metaflow"),
        ("/project/.metaflow", "/project/sub/defs.py", "../.metaflow"),
        ("/elsewhere/.metaflow", "/project/defs.py", "/elsewhere/.metaflow"),
        ("/.metaflow", "/project/defs.py", "/.metaflow"),
        ("/out/.metaflow", "/out/defs.py", ".metaflow"),
    ],
)
def test_datastore_beside_flow_or_definitions_moves_with_them(root, definitions, expected):
    job = lower(replace(flow_model(step_model("start")), datastore_root=root), JobOptions())
    assert f'datastore_root="{expected}"' in render(job, Path(definitions))


def test_remote_datastore_root_stays_as_it_is():
    flow = replace(flow_model(step_model("start")), datastore="s3", datastore_root="s3://bucket/root")
    assert 'datastore_root="s3://bucket/root"' in render(lower(flow, JobOptions()), DEFINITIONS)


def test_lines_are_short():
    values = [f"value number {n}" for n in range(30)]
    step = replace(step_model("start"), environment={f"VARIABLE_{n}": "x" * 20 for n in range(10)})
    options = JobOptions(tags=tuple(values), step_env={f"VARIABLE_{n}": "y" * 20 for n in range(10)})
    text = render(lower(flow_model(step), options), DEFINITIONS)
    assert max(map(len, text.splitlines())) <= 110
