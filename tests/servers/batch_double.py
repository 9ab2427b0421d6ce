"""A double of AWS Batch, as far as Metaflow uses it: each job is a local process in an empty folder.

`python batch_double.py PORT FOLDER`: the folder takes `requests.jsonl` and `jobs/ID`. As long as a file `pending` is
there, new jobs stay in their queue.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(sys.argv[2])
# What jobs have beside what is asked for, where real ones have an image and a role.
NODE = json.loads((FOLDER / "node.json").read_text())
JOBS: dict[str, Job] = {}
DEFINITIONS: dict[str, dict] = {}


class Job:
    """A job."""

    def __init__(self, request: dict):
        self.id = str(uuid.uuid4())
        self.request = request
        self.created = _now()
        self.process: subprocess.Popen | None = None
        self.started = self.stopped = 0
        self.reason: str | None = None

    def description(self) -> dict:
        if self.process is None and self.reason is None and not (FOLDER / "pending").exists():
            self._start()
        code = 1 if self.reason else None if self.process is None else self.process.poll()
        if code is not None and not self.stopped:
            self.stopped = _now()
        status = "RUNNING" if self.process else "RUNNABLE"
        container = {} if code is None else {"exitCode": code if code >= 0 else 128 - code}
        described = {
            "jobId": self.id,
            "jobName": self.request["jobName"],
            "jobQueue": self.request["jobQueue"],
            "jobDefinition": self.request["jobDefinition"],
            "parameters": self.request.get("parameters", {}),
            "status": status if code is None else "FAILED" if code else "SUCCEEDED",
            "createdAt": self.created,
            "startedAt": self.started,
            "container": container,
        }
        return described | ({"stoppedAt": self.stopped} if self.stopped else {})

    def _start(self) -> None:
        overrides = self.request["containerOverrides"]
        variables = {entry["name"]: entry["value"] for entry in overrides["environment"]}
        of_batch = {"AWS_BATCH_JOB_ID": self.id, "AWS_BATCH_JOB_ATTEMPT": "1", "AWS_BATCH_CE_NAME": "ce"}
        of_batch |= {"AWS_BATCH_JQ_NAME": self.request["jobQueue"], "AWS_EXECUTION_ENV": "AWS_ECS_EC2"}
        of_batch["ECS_CONTAINER_METADATA_URI_V4"] = "http://127.0.0.1:9"
        folder = FOLDER / "jobs" / self.id
        folder.mkdir(parents=True)
        self.started = _now()
        with (folder.parent / f"{self.id}.log").open("w") as output:
            self.process = subprocess.Popen(
                overrides["command"],
                cwd=folder,
                env={**NODE, **of_batch, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def end(self, reason: str) -> None:
        self.reason = reason
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _now() -> int:
    return int(time.time() * 1000)


def answer(call: str, request: dict) -> dict:
    """The answer to a call of the API, by the last part of its path."""
    if call == "describejobqueues":
        order = [{"order": 1, "computeEnvironment": "ce"}]
        return {"jobQueues": [{"jobQueueName": "queue", "computeEnvironmentOrder": order}]}
    if call == "describecomputeenvironments":
        return {"computeEnvironments": [{"computeEnvironmentName": "ce", "computeResources": {"type": "EC2"}}]}
    if call == "describejobdefinitions":
        found = DEFINITIONS.get(request["jobDefinitionName"])
        return {"jobDefinitions": [] if found is None else [found]}
    if call == "registerjobdefinition":
        name = request["jobDefinitionName"]
        DEFINITIONS[name] = {"jobDefinitionName": name, "jobDefinitionArn": f"arn:{name}", "revision": 1}
        return DEFINITIONS[name]
    if call == "submitjob":
        job = Job(request)
        JOBS[job.id] = job
        return {"jobId": job.id, "jobName": request["jobName"]}
    if call == "describejobs":
        return {"jobs": [JOBS[job_id].description() for job_id in request["jobs"] if job_id in JOBS]}
    assert call == "terminatejob", call
    JOBS[request["jobId"]].end(request["reason"])
    return {}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        call = self.path.rpartition("/")[2]
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answered = answer(call, request)
        if call in ("submitjob", "terminatejob"):
            with (FOLDER / "requests.jsonl").open("a") as file:
                entry = {"time": time.time(), "call": call, "request": request, "answer": answered}
                file.write(json.dumps(entry) + "\n")
        body = json.dumps(answered).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        for job in JOBS.values():
            job.end("the end of the tests")
