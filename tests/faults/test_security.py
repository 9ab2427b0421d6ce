"""Values are data: nothing runs them, nothing shows them that should not, and nobody else can read them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import dagster as dg
import pytest
from support import Project, execute, job_of

PLANTED = "planted-value-of-a-secret"


def test_planted_secrets_are_in_no_file_and_no_event(project, monkeypatch):
    flows: Project = project()
    flows.write(
        "flow.py",
        "import os\nfrom metaflow import FlowSpec, environment, secrets, step\n\n"
        "class SecretFlow(FlowSpec):\n"
        "    @secrets(sources=[{'type': 'inline', 'id': 'db', 'options': {'env_vars': {'DB_PASSWORD': "
        f"{PLANTED!r} + '-1'}}}}}}])\n"
        "    @environment(vars={'PLAIN': 'x'})\n    @step\n    def only(self):\n"
        "        self.api_key = os.environ['DB_PASSWORD']\n"
        "        self.lengths = [len(os.environ[name]) for name in ('DB_PASSWORD', 'API_TOKEN', 'CLOUD_KEY')]\n\n"
        "if __name__ == '__main__':\n    SecretFlow()\n",
    )
    monkeypatch.setenv("API_TOKEN", f"{PLANTED}-2")
    monkeypatch.setenv("CLOUD_KEY", f"{PLANTED}-3")
    # such as a Metaflow configuration holds
    monkeypatch.setenv("METAFLOW_SERVICE_AUTH_KEY", f"{PLANTED}-4")
    monkeypatch.setenv("METAFLOW_SERVICE_HEADERS", f'{{"x-api-key": "{PLANTED}-5"}}')
    definitions = flows.compile("flow.py", "--step-env", "API_TOKEN")
    assert PLANTED not in definitions.read_text()
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute(job_of(definitions), instance=instance)
        assert result.success
        entries = instance.all_logs(result.run_id)
        run = instance.get_run_by_id(result.run_id)
    assert PLANTED not in "".join(map(dg.serialize_value, entries))
    assert PLANTED not in dg.serialize_value(run)
    assert flows.run_of(result).data.lengths == [27, 27, 27]


@pytest.mark.skipif(sys.platform != "linux", reason="open files are found in /proc")
def test_temporary_files_are_private(project, temporary):
    flows: Project = project()
    flows.write(
        "flow.py",
        "import os\nfrom pathlib import Path\nfrom metaflow import Config, FlowSpec, step\n\n"
        "class PrivateFlow(FlowSpec):\n    config = Config('config', default_value={'a': 1})\n\n"
        "    @step\n    def only(self):\n"
        "        paths = [path for path in Path(os.environ['TMPDIR']).rglob('*') if 'metaflow-' in str(path)]\n"
        "        self.modes = {str(path): (path.is_dir(), oct(path.stat().st_mode & 0o777)) for path in paths}\n\n"
        "if __name__ == '__main__':\n    PrivateFlow()\n",
    )
    job = flows.job("flow.py")
    mask = os.umask(0)  # the most that files could be open
    try:
        result = execute(job)
    finally:
        os.umask(mask)
    modes = flows.run_of(result).data.modes
    names = {Path(path).name for path in modes}
    assert {"context", "messages", "stdout.log", "stderr.log", "configs.json"} <= names
    assert {mode for is_folder, mode in modes.values() if is_folder} == {"0o700"}
    assert {mode for is_folder, mode in modes.values() if not is_folder} == {"0o600"}


HOSTILE = [
    "$(touch ran)`touch ran`; touch ran && touch ran | touch ran > ran",
    "{{ 7 * 7 }} {% raw %} {# #} {%- for x in y %}",
    "'\"\"\"\n)\nimport os; os.system('touch ran')\n#",
    "--help",
    "%s %(x)s {0} \\n \\\\",
    "żółć 漢字 \U0001f600 \u202e",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_parameters_tags_and_items_are_data(project, value):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, Parameter, step\n\nclass HostileFlow(FlowSpec):\n"
        f"    text = Parameter('text', default={value!r}, help={value!r})\n\n"
        f"    @step\n    def start(self):\n        {value!r}\n        self.items = [self.text, {value!r}]\n"
        "        self.next(self.work, foreach='items')\n\n"
        "    @step\n    def work(self):\n        print(self.input)\n        self.value = self.input\n"
        "        self.next(self.join)\n\n"
        "    @step\n    def join(self, inputs):\n        self.values = [i.value for i in inputs]\n"
        "        self.next(self.end)\n\n"
        "    @step\n    def end(self):\n        pass\n\nif __name__ == '__main__':\n    HostileFlow()\n",
    )
    definitions = flows.compile("flow.py", f"--tag={value}", f"--step-env=X={value}", f"--namespace={value}")
    for parameters in (None, {"text": value}):
        result = execute(job_of(definitions), parameters)
        assert result.success
        run = flows.run_of(result)
        assert run["join"].task["values"].data == [value, value]
        assert value in run.user_tags
    assert not list(flows.folder.rglob("ran"))
