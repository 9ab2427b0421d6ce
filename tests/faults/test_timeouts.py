"""`@timeout` is enforced, whatever the step does, and each attempt has its own limit."""

from __future__ import annotations

import time

import pytest
from support import Project, execute, failure_description, failures, is_running, job_of, values_of


@pytest.mark.parametrize(("how", "at_most_seconds"), [("sleep", 8), ("c call", 10), ("blocked", 22), ("children", 22)])
def test_step_over_its_limit_is_ended_and_retried(project, how, at_most_seconds):
    flows: Project = project("timeouts.py")
    job = job_of(flows.compile("timeouts.py"))
    started = time.monotonic()
    result = execute(job, {"how": how})
    assert time.monotonic() - started < at_most_seconds
    assert result.success
    (failed,) = failures(result, "only")
    assert "Step only of flow TimeoutsFlow (attempt 0) timed out after 2 s" in failure_description(failed)
    if how == "sleep":
        # Metaflow's own timeout, without the stack of those who run the step
        cause = failed.event_specific_data.error.cause.cause
        assert cause.message == "metaflow.plugins.timeout_decorator.TimeoutException: " + (
            "Step only timed out after 0 hours, 0 minutes, 2 seconds\n"
        )
        assert "timeouts.py" in cause.stack[0]
    if how == "children":
        pids = [int(pid) for pid in (flows.folder / "pids").read_text().split()]
        assert len(pids) == 2
        assert not any(map(is_running, pids))
    # the logs of the attempt that was ended are kept
    log = flows.folder / f".metaflow/TimeoutsFlow/dagster-{result.run_id}/only/only/0.runtime_stdout.log"
    assert "in attempt 0" in log.read_text()
    assert flows.run_of(result).successful


def test_catch_sees_metaflows_own_timeout(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "import time\nfrom metaflow import FlowSpec, catch, step, timeout\n\n"
        "class CaughtTimeoutFlow(FlowSpec):\n"
        "    @catch(var='late', print_exception=False)\n    @timeout(seconds=1)\n    @step\n    def start(self):\n"
        "        time.sleep(60)\n        self.next(self.end)\n\n"
        "    @step\n    def end(self):\n        self.was_late = 'timed out after' in str(self.late)\n\n"
        "if __name__ == '__main__':\n    CaughtTimeoutFlow()\n",
    )
    result = flows.run("flow.py")
    assert result.success
    assert failures(result, "start") == []
    assert values_of(flows.run_of(result))["end"]["was_late"] is True


def test_limit_is_on_the_steps_code_not_on_its_imports(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "import sys, time\nfrom metaflow import FlowSpec, step, timeout\n\n"
        "if 'step' in sys.argv:\n    time.sleep(3)\n\n"
        "class SlowImportFlow(FlowSpec):\n    @timeout(seconds=1)\n    @step\n    def only(self):\n        pass\n\n"
        "if __name__ == '__main__':\n    SlowImportFlow()\n",
    )
    assert flows.run("flow.py").success


@pytest.mark.parametrize(("jump", "sleep", "is_late"), [("+ 86400", 2, False), ("- 86400", 60, True)])
def test_limits_do_not_follow_the_wall_clock(project, jump, sleep, is_late):
    flows: Project = project()
    (flows.folder / "clock").mkdir()
    # the clock jumps by a day as soon as each process has run for half a second
    flows.write(
        "clock/sitecustomize.py",
        "import time\nclock, started = time.time, time.monotonic()\n"
        f"time.time = lambda: clock() {jump} * (time.monotonic() - started > 0.5)\n",
    )
    flows.write(
        "flow.py",
        "import signal, time\nfrom metaflow import FlowSpec, step, timeout\n\n"
        "class ClockFlow(FlowSpec):\n    @timeout(seconds=4)\n    @step\n    def only(self):\n"
        f"        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n        time.sleep({sleep})\n"
        "        self.year = time.gmtime(time.time()).tm_year\n\n"
        "if __name__ == '__main__':\n    ClockFlow()\n",
    )
    job = flows.job("flow.py", f"--step-env=PYTHONPATH={flows.folder / 'clock'}")
    started = time.monotonic()
    result = execute(job)
    assert result.success != is_late
    assert time.monotonic() - started < 30
    if is_late:
        assert "timed out after 4 s" in failure_description(failures(result, "only")[0])
