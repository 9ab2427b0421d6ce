"""The cost of supervising a step, of which nothing stays."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from support import Project, execute, job_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are measured in /proc")


def test_supervisor_is_small_and_does_nothing_while_the_step_is_silent(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "import os, time\nfrom pathlib import Path\nfrom metaflow import FlowSpec, step\n\n"
        "def facts():\n    folder = Path('/proc', str(os.getppid()))\n"
        "    status = dict(line.split(':', 1) for line in (folder / 'status').read_text().splitlines())\n"
        "    times = (folder / 'stat').read_text().rpartition(')')[2].split()[11:13]\n"
        "    return int(status['RssAnon'].split()[0]), sum(map(int, times))\n\n"
        "class SilentFlow(FlowSpec):\n    @step\n    def only(self):\n        time.sleep(0.5)\n"
        "        before = facts()\n        time.sleep(3)\n        self.kilobytes, after = facts()\n"
        "        self.ticks = after - before[1]\n\nif __name__ == '__main__':\n    SilentFlow()\n",
    )
    data = flows.run_of(flows.run("flow.py")).data
    bare = subprocess.run(
        [sys.executable, "-c", "print(open('/proc/self/status').read().split('RssAnon:')[1].split()[0])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert data.kilobytes - int(bare.stdout) < 15_000
    assert data.ticks == 0


def test_nothing_is_left_behind_after_many_steps(project, temporary):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, Parameter, step\n\nclass ManyFlow(FlowSpec):\n"
        "    size = Parameter('size', default=2)\n\n"
        "    @step\n    def start(self):\n        self.items = list(range(self.size))\n"
        "        self.next(self.work, foreach='items')\n\n"
        "    @step\n    def work(self):\n        self.next(self.join)\n\n"
        "    @step\n    def join(self, inputs):\n        self.next(self.end)\n\n"
        "    @step\n    def end(self):\n        pass\n\nif __name__ == '__main__':\n    ManyFlow()\n",
    )
    job = job_of(flows.compile("flow.py"))

    def counts() -> tuple[int, int, list[str], int]:
        children = subprocess.run(["ps", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False)
        kept = [name for name in os.listdir(temporary) if name.startswith("metaflow-")]
        return len(os.listdir("/proc/self/fd")), threading.active_count(), kept, len(children.stdout.splitlines())

    assert execute(job, {"size": 2}).success  # what is made once and kept
    before = counts()
    assert execute(job, {"size": 15}).success
    assert counts() == before
    assert before[2] == []
