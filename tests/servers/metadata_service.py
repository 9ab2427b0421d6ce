"""A double of Metaflow's metadata service: the endpoints that Metaflow 2.19 calls, in a thread of the tests.

It answers as the real one does (version 2.5): ids of runs and tasks that are strings are names beside a number, what is
there already is a conflict (409), tags of a run are those of all below it, a task's heartbeat is its run's, too, and a
heartbeat that comes too early is refused (404). It can be told to be down, to be slow, to fail, and to ask for a key.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION = "2.5.0"
KEY_HEADER = "x-api-key"
# How long a sidecar waits between two heartbeats; one that comes earlier is refused.
HEARTBEAT_SECONDS = 0.2
# The kinds of what has a path of its own, outermost first: `flows/F/runs/R/steps/S/tasks/T`.
KINDS = ("flows", "runs", "steps", "tasks")
# How the ids of each kind are called.
ID_FIELDS = ("flow_id", "run_number", "step_name", "task_id")
TAGS = ("tags", "system_tags")


class Request(NamedTuple):
    """A request that has come: its method, its path, and when, by the monotonic clock."""

    method: str
    path: str
    at: float


class _Refusal(Exception):
    """The request is answered with an error."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


Path = tuple[str, ...]


@dataclass
class MetadataService:
    """The service's state, and how it behaves.

    Attributes:
        url: Where it is.
        key: The key that requests must have in their header, or None.
        fault: Called with each request's method and path before it is answered: an HTTP status is the answer, `None`
            is the usual one; it may raise `ConnectionError`, so that the connection is closed without an answer, or
            take its time.
        requests: The requests that have come, those that were refused included.
    """

    url: str = ""
    key: str | None = None
    fault: Callable[[str, str], int | None] = lambda method, path: None
    requests: list[Request] = field(default_factory=list)
    _objects: dict[Path, dict[str, Any]] = field(default_factory=dict)
    _entries: dict[Path, list[dict[str, Any]]] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which Metaflow uses it."""
        return {"METAFLOW_SERVICE_URL": self.url}

    def be_down(self, method: str, path: str) -> None:
        """A fault: nobody answers."""
        raise ConnectionError

    def run(self, flow: str, run_id: str) -> dict[str, Any]:
        """The facts that it knows of a run."""
        return self._objects["flows", flow, "runs", run_id]

    def heartbeats(self, *ids: str) -> list[float]:
        """The times of the heartbeats of a run (flow, run) or task (flow, run, step, task)."""
        path = "/".join(itertools.chain.from_iterable(zip(KINDS, ids, strict=False)))
        return [request.at for request in self.requests if request.path == f"/{path}/heartbeat"]

    def answer(self, method: str, address: str, headers: Any, body: Any) -> tuple[int, Any]:
        """The status and the body of an answer.

        Raises:
            ConnectionError: There is to be none.
        """
        split = urlsplit(address)
        with self._lock:
            self.requests.append(Request(method, split.path, time.monotonic()))
        status = self.fault(method, split.path)
        if status is not None:
            return status, {"message": "on purpose"}
        if self.key is not None and headers.get(KEY_HEADER) != self.key:
            return 403, {"message": "Forbidden"}
        parts = tuple(unquote(part) for part in split.path.strip("/").split("/"))
        with self._lock:
            try:
                if method == "GET":
                    return 200, self._get(parts, parse_qs(split.query))
                if parts[-1] == "heartbeat":
                    return self._heartbeat(parts[:-1])
                return 200, self._post(parts, body or {})
            except _Refusal as refusal:
                return refusal.status, {"message": str(refusal)}

    def _get(self, parts: Path, query: dict[str, list[str]]) -> Any:
        if parts == ("ping",):
            return "pong"
        if parts[-1] == "filtered_tasks":
            return self._filtered_tasks(parts[:-1], query)
        if parts[-1] == "metadata":
            return self._below(parts[:-1], "metadata")
        if parts[-1] == "artifacts":
            if parts[-3] == "attempt":
                return _of_attempt(self._below(parts[:-3], "artifacts"), int(parts[-2]))
            return _of_latest_attempts(self._below(parts[:-1], "artifacts"))
        if "artifacts" in parts:
            at = parts.index("artifacts")
            found = [entry for entry in self._below(parts[:at], "artifacts") if entry["name"] == parts[at + 1]]
            of_attempt = _of_attempt(found, int(parts[-1])) if "attempt" in parts else _of_latest_attempts(found)
            return _first(of_attempt)
        if parts[-1] in KINDS:
            above = [path for path in self._objects if path[:-1] == parts]
            return [self._shown(path) for path in above]
        self._known(parts)
        return self._shown(parts)

    def _post(self, parts: Path, body: Any) -> Any:
        if parts[-1] == "mutate":
            return self._mutate_tags(parts[:-2], body)
        if parts[-1] in ("artifact", "metadata"):
            if parts[:-1] not in self._objects:
                raise _Refusal(400, "need to register run_id and task_id first")
            kind = "artifacts" if parts[-1] == "artifact" else "metadata"
            return {f"{kind}_created": self._add(parts[:-1], kind, body)}
        # `flows/F`, and below that `flows/F/run`, `flows/F/runs/R/steps/S/step`, ...
        if len(parts) == 2:
            path = parts
        elif parts[-1] == "step":
            path = parts[:-1]
        else:
            own_id = body.get("run_number" if parts[-1] == "run" else "task_id")
            if own_id is not None and own_id.isnumeric():
                raise _Refusal(500 if parts[-1] == "run" else 400, "the id may not be a number")
            path = (*parts[:-1], f"{parts[-1]}s", str(own_id or next(self._numbers)))
        if len(path) > 2:
            self._known(path[:-2])
        if path in self._objects:
            raise _Refusal(409, "duplicate key")
        self._objects[path] = {**self._ids(path), **{name: body.get(name) or [] for name in TAGS}, "ts_epoch": _now()}
        self._objects[path]["user_name"] = body.get("user_name")
        if parts[-1] in ("run", "task"):
            self._objects[path]["last_heartbeat_ts"] = time.time()
        if parts[-1] == "task":
            self._take_heartbeat(path[:4])
        return self._shown(path)

    def _add(self, task: Path, kind: str, body: list[dict[str, Any]]) -> int:
        """Add artifacts or metadata of a task, and return how many there were not yet."""
        stored = self._entries.setdefault((*task, kind), [])
        known = {(entry["attempt_id"], entry["name"]) for entry in stored} if kind == "artifacts" else set()
        added = [entry for entry in body if (entry.get("attempt_id"), entry.get("name")) not in known]
        stored += [{**self._ids(task), "id": next(self._numbers), "ts_epoch": _now(), **entry} for entry in added]
        return len(added)

    def _heartbeat(self, path: Path) -> tuple[int, str]:
        is_taken = self._take_heartbeat(path)
        if path != path[:4]:
            self._take_heartbeat(path[:4])
        # JSON within JSON, as the service has it
        return 200 if is_taken else 404, json.dumps({"wait_time_in_seconds": HEARTBEAT_SECONDS})

    def _take_heartbeat(self, path: Path) -> bool:
        known = self._objects.get(path)
        if known is None or known["last_heartbeat_ts"] > time.time() - HEARTBEAT_SECONDS:
            return False
        known["last_heartbeat_ts"] = time.time()
        return True

    def _mutate_tags(self, run: Path, body: dict[str, list[str]]) -> dict[str, Any]:
        self._known(run)
        added, removed = body["tags_to_add"], body["tags_to_remove"]
        if set(removed) & set(self._objects[run]["system_tags"]):
            raise _Refusal(422, "Cannot remove tags that are existing system tags")
        kept = [tag for tag in self._objects[run]["tags"] if tag not in removed]
        new = [tag for tag in added if tag not in self._objects[run]["system_tags"]]
        self._objects[run]["tags"] = list(dict.fromkeys([*kept, *new]))
        return {"tags": self._objects[run]["tags"]}

    def _filtered_tasks(self, step: Path, query: dict[str, list[str]]) -> list[str]:
        """The pathspecs of a step's tasks that have a metadatum."""
        tasks = [path for path in self._objects if path[:-2] == step]
        (name,), (pattern,) = query.get("metadata_field_name", [None]), query.get("pattern", [""])
        return [
            "/".join(task[1::2])
            for task in tasks
            if not query
            or any(
                name in (None, entry["field_name"]) and re.search(pattern, str(entry["value"]))
                for entry in self._entries.get((*task, "metadata"), ())
            )
        ]

    def _below(self, path: Path, kind: str) -> list[dict[str, Any]]:
        """The artifacts or metadata of a task, or of all tasks of a step or run."""
        return [
            {**entry, **(self._tags(owner) if kind == "artifacts" else {})}
            for owner, entries in self._entries.items()
            if owner[-1] == kind and owner[: len(path)] == path
            for entry in entries
        ]

    def _shown(self, path: Path) -> dict[str, Any]:
        return {**self._objects[path], **self._tags(path)}

    def _tags(self, path: Path) -> dict[str, Any]:
        """The tags of what is in a run: those of the run."""
        run = self._objects.get(path[:4], {})
        return {name: run[name] for name in TAGS if name in run}

    def _known(self, path: Path) -> None:
        if path not in self._objects:
            raise _Refusal(404, "not found")

    @staticmethod
    def _ids(path: Path) -> dict[str, str]:
        return dict(zip(ID_FIELDS, path[1::2], strict=False))


def _first(entries: list[dict[str, Any]]) -> dict[str, Any]:
    if not entries:
        raise _Refusal(404, "not found")
    return entries[0]


def _of_attempt(artifacts: list[dict[str, Any]], attempt: int) -> list[dict[str, Any]]:
    return [artifact for artifact in artifacts if artifact["attempt_id"] == attempt]


def _of_latest_attempts(artifacts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    latest: dict[str, int] = {}
    for artifact in artifacts:
        latest[artifact["task_id"]] = max(artifact["attempt_id"], latest.get(artifact["task_id"], 0))
    return [artifact for artifact in artifacts if artifact["attempt_id"] == latest[artifact["task_id"]]]


def _now() -> int:
    return round(time.time() * 1000)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # else each answer waits for the client to acknowledge its head
    disable_nagle_algorithm = True
    service: MetadataService

    def _respond(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length)
        try:
            status, body = self.service.answer(
                self.command, self.path, self.headers, json.loads(text) if text else None
            )
        except ConnectionError:
            self.close_connection = True
            return
        content = json.dumps(body).encode()
        with contextlib.suppress(OSError):  # whoever asked has gone
            self.send_response(status)
            self.send_header("METADATA_SERVICE_VERSION", VERSION)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_PATCH = _respond

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # connections that are kept alive would hold up the end
    block_on_close = False


@contextlib.contextmanager
def running_metadata_service() -> Iterator[MetadataService]:
    """Have a service as long as the context is open."""
    service = MetadataService()
    handler = type("Handler", (_Handler,), {"service": service})
    with _Server(("127.0.0.1", 0), handler) as server:
        service.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield service
        finally:
            server.shutdown()
