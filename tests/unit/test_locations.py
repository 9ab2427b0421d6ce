"""The places where a definitions file finds what it was compiled from."""

from __future__ import annotations

import pytest

from metaflow_pipes.locations import logs_command


@pytest.mark.parametrize(
    ("datastore", "root", "settings", "metadata", "options"),
    [
        ("local", "{folder}/.metaflow", {}, "local", ""),
        ("local", "/data", {}, "local", "--datastore-root=/data"),
        ("local", "{folder}/.metaflow", {"METAFLOW_DEFAULT_DATASTORE": "s3"}, "local", "--datastore=local"),
        ("local", "{folder}/.metaflow", {}, "service", "--metadata=service"),
        ("s3", "s3://b/m", {}, "local", "--datastore=s3 --datastore-root=s3://b/m"),
        ("s3", "s3://b/m", {"METAFLOW_DATASTORE_SYSROOT_S3": "s3://b/m"}, "local", "--datastore=s3"),
    ],
)
def test_logs_command_has_the_options_without_which_metaflow_looks_elsewhere(
    tmp_path, datastore, root, settings, metadata, options
):
    folder = tmp_path / "flows"
    folder.mkdir()
    (tmp_path / ".metaflow").mkdir()
    command = logs_command(
        "dagster-1/start",
        folder / "flow.py",
        folder,
        datastore=datastore,
        datastore_root=root.format(folder=tmp_path),
        settings=settings,
        top_level_args=["--environment=local", f"--metadata={metadata}"],
    )
    assert command.split() == ["python", "flow.py", *options.split(), "logs", "dagster-1/start"]
