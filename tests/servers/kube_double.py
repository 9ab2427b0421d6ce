"""A double of the Kubernetes API, as far as Metaflow and dagster-k8s use it: each pod is a local process.

`python kube_double.py PORT FOLDER`: the folder takes `requests.jsonl`, a line for each request that changes something,
and one with the method `END` for each pod that was to end and has; and `pods/NAME`, the pod's home with the empty
folder where it runs. What a test wants is said by files in the folder: `images.json` holds the variables that
containers of an image have, `secrets/NAME` those of a secret; `pending`, as long as it is there, lets new pods wait, if
their jobs' names begin with what it holds; and `forbidden` has it refuse to delete.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

FOLDER = Path(sys.argv[2])
JOBS: dict[str, Job] = {}
# Those of all jobs, also of deleted ones whose pods were left.
PODS: dict[str, Job] = {}
LOCK = threading.Lock()
# The variables of containers, by their images; those of the empty name are any other's.
IMAGES = json.loads((FOLDER / "images.json").read_text())
# Of Kubernetes, where a pod does not say another one.
GRACE_SECONDS = 30


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def record(**entry) -> None:
    with (FOLDER / "requests.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), **entry}) + "\n")


class Job:
    """A job and its one pod."""

    def __init__(self, namespace: str, body: dict):
        self.body = body
        metadata = body["metadata"]
        metadata["namespace"] = namespace
        metadata.setdefault("name", (metadata.get("generateName") or "job-") + uuid.uuid4().hex[:5])
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = self.created = now()
        self.name = metadata["name"]
        self.pod_name = f"{self.name}-{uuid.uuid4().hex[:5]}"
        self.folder = FOLDER / "pods" / self.name
        self.folder.mkdir(parents=True)
        self.process: subprocess.Popen | None = None
        self.started = self.ended = None
        self.is_deleted = False
        threading.Thread(target=self._start, daemon=True).start()

    @property
    def spec(self) -> dict:
        return self.body["spec"]["template"]["spec"]

    @property
    def container(self) -> dict:
        return self.spec["containers"][0]

    def _start(self) -> None:
        while self._waits():
            time.sleep(0.05)
        with LOCK:
            if self.is_deleted:
                return
            output = (self.folder / "pod.log").open("w")
            work = self.folder / "work"
            work.mkdir()
            self.started = now()
            self.process = subprocess.Popen(
                (self.container.get("command") or []) + (self.container.get("args") or []),
                cwd=work,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _waits(self) -> bool:
        try:
            return self.name.startswith((FOLDER / "pending").read_text())
        except FileNotFoundError:
            return False

    def _environment(self) -> dict[str, str]:
        of_pod = {"metadata.namespace": self.body["metadata"]["namespace"], "metadata.name": self.pod_name}
        image = IMAGES.get(self.container.get("image"), IMAGES[""])
        variables = {**image, "HOME": str(self.folder)}
        for variable in self.container.get("env") or []:
            path = ((variable.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")
            value = variable.get("value")
            variables[variable["name"]] = value if value is not None else of_pod.get(path, path or "")
        for source in self.container.get("envFrom") or []:
            secret = FOLDER / "secrets" / source["secretRef"]["name"]
            variables |= json.loads(secret.read_text())
        return variables

    def end(self) -> None:
        """End the pod, as Kubernetes does: its first process is asked to, and has the pod's time for it."""
        with LOCK:
            self.is_deleted = True
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            grace_seconds = self.spec.get("terminationGracePeriodSeconds", GRACE_SECONDS)
            threading.Thread(target=self.kill, args=(grace_seconds,), daemon=True).start()

    def kill(self, grace_seconds: float = 0) -> None:
        """Kill all of its processes when the first one has ended, whose exit code is noted, or the time is over."""
        if self.process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_seconds)
        record(method="END", job=self.name, code=self.process.poll())
        mark = f"HOME={self.folder}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    os.kill(int(path.parent.name), signal.SIGKILL)
        self.process.wait()

    def exit_code(self) -> int | None:
        code = None if self.process is None else self.process.poll()
        if self.process is None and self.is_deleted:
            code = 137
        if code is not None and self.ended is None:
            self.ended = now()
        return code if code is None or code >= 0 else 128 - code

    def as_job(self) -> dict:
        code = self.exit_code()
        if code is None:
            status = {"active": 1, "startTime": self.created}
        else:
            kind = "Complete" if code == 0 else "Failed"
            condition = {"type": kind, "status": "True", "lastTransitionTime": self.ended}
            status = {"succeeded" if code == 0 else "failed": 1, "startTime": self.created, "conditions": [condition]}
        return {"apiVersion": "batch/v1", "kind": "Job", **self.body, "status": status}

    def as_pod(self) -> dict:
        code = self.exit_code()
        template = self.body["spec"]["template"].get("metadata") or {}
        if code is not None:
            reason = "Completed" if code == 0 else "Error"
            ended = {"exitCode": code, "reason": reason, "startedAt": self.started, "finishedAt": self.ended}
            phase, state = ("Failed" if code else "Succeeded"), {"terminated": ended}
        elif self.started is None:
            phase, state = "Pending", {"waiting": {"reason": "ContainerCreating"}}
        else:
            phase, state = "Running", {"running": {"startedAt": self.started}}
        container = {"name": self.container["name"], "image": self.container.get("image"), "imageID": ""}
        metadata = {
            "name": self.pod_name,
            "namespace": self.body["metadata"]["namespace"],
            "uid": self.body["metadata"]["uid"],
            "labels": {**(template.get("labels") or {}), "job-name": self.name},
            "annotations": template.get("annotations") or {},
            "creationTimestamp": self.created,
        }
        statuses = [{**container, "ready": phase == "Running", "restartCount": 0, "state": state}]
        status = {"phase": phase, "startTime": self.created, "containerStatuses": statuses}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": self.spec, "status": status}


def selected(jobs: dict[str, Job], query: dict[str, list[str]]) -> list[Job]:
    """Those of the jobs that have the labels which are asked for, as far as they are those of the pods."""
    wanted = dict(term.split("=", 1) for term in query.get("labelSelector", [""])[0].split(",") if "=" in term)
    return [
        job
        for job in list(jobs.values())
        if all(job.as_pod()["metadata"]["labels"].get(name) == value for name, value in wanted.items())
    ]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass

    def answer(self, code: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, code: int, reason: str) -> None:
        self.answer(code, {"kind": "Status", "status": "Failure", "reason": reason, "message": reason, "code": code})

    def answer_request(self) -> None:
        url = urlparse(self.path)
        query = parse_qs(url.query)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        match = re.fullmatch(r"/apis/batch/v1/namespaces/([^/]+)/jobs(?:/([^/]+))?(?:/status)?", url.path)
        if match:
            return self.answer_of_jobs(*match.groups(), query, body)
        match = re.fullmatch(r"/api/v1/namespaces/[^/]+/pods(?:/([^/]+))?", url.path)
        if match:
            return self.answer_of_pods(match[1], query)
        return self.refuse(404, "NotFound")

    def answer_of_jobs(self, namespace: str, name: str | None, query: dict, body: dict) -> None:
        method = self.command
        if method == "POST":
            job = Job(namespace, body)
            JOBS[job.name] = PODS[job.pod_name] = job
            record(method=method, job=job.name, body=job.body)
            return self.answer(201, job.as_job())
        if name is None:
            items = [job.as_job() for job in selected(JOBS, query)]
            return self.answer(200, {"kind": "JobList", "apiVersion": "batch/v1", "metadata": {}, "items": items})
        if name not in JOBS:
            return self.refuse(404, "NotFound")
        job = JOBS[name]
        if method in ("DELETE", "PATCH"):
            is_refused = (FOLDER / "forbidden").exists()
            record(method=method, job=name, body=body, refused=is_refused)
            if is_refused:
                return self.refuse(403, "Forbidden")
        if method == "DELETE":
            del JOBS[name]
            # whoever says nothing of the pod leaves it
            if query.get("propagationPolicy", ["Orphan"])[0] != "Orphan":
                job.end()
        elif method == "PATCH":
            job.end()
            job.body["spec"]["parallelism"] = 0
        return self.answer(200, job.as_job())

    def answer_of_pods(self, name: str | None, query: dict) -> None:
        if name is None:
            items = [job.as_pod() for job in selected(PODS, query)]
            return self.answer(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
        if name not in PODS:
            return self.refuse(404, "NotFound")
        job = PODS[name]
        if self.command == "DELETE":
            record(method="DELETE", pod=name, job=job.name, refused=False)
            job.end()
            del PODS[name]
        return self.answer(200, job.as_pod())

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer_request


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        for job in PODS.values():
            job.kill()
