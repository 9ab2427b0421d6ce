"""The imports of a flow file, done in a process that steps are forked from."""

from __future__ import annotations

import sys

import pytest

from step_wrapper.step.preloading import UnfitError, import_modules_of


def test_module_that_ends_python_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    (tmp_path / "ending_module.py").write_text("import sys\nsys.exit('ended')\n")
    (tmp_path / "flow.py").write_text("import ending_module\n")
    with pytest.raises(UnfitError, match="the import of ending_module ends Python"):
        import_modules_of(str(tmp_path / "flow.py"))
