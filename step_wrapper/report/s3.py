"""Metaflow's storage on S3, used within this process.

Metaflow lists folders, and reads or writes more than ten objects, in a process that it starts for that, with processes
of its own: a second or more for each task, which stores more than ten, and several times that for a step that resumes a
run or joins a few tasks.
"""

from __future__ import annotations

import contextlib
import functools
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from metaflow.datastore.datastore_storage import CloseAfterUse
from metaflow.plugins.datastores.s3_storage import S3Storage
from metaflow.plugins.datatools.s3.s3 import S3Client

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# As many objects as Metaflow reads or writes one after another.
MOST_ONE_BY_ONE = 10
# As many as threads read in about the time that Metaflow's process needs to start; that reads more of them faster.
MOST_BY_THREADS = 400
THREADS = 8


def use_threads(datastore: Any) -> None:
    """Let a datastore on S3 use threads in place of processes where that is faster; others stay as they are.

    Args:
        datastore: The flow's datastore (`metaflow.datastore.FlowDataStore`).
    """
    storage = datastore._storage_impl
    if type(storage) is S3Storage:
        storage.__class__ = S3InProcess
        storage.s3_client = _shared_client()


@functools.cache
def _shared_client() -> S3Client:
    """The client of all datastores of this process: to make one takes longer than most of what it is asked."""
    return S3Client()


class S3InProcess(S3Storage):
    """Metaflow's storage on S3, with threads in place of processes where there is not much to read."""

    def list_content(self, paths: Iterable[str]) -> list[Any]:
        """The folders and files in some folders, as Metaflow asks a storage for them."""
        return self._listed(paths, Delimiter="/")

    def list_files(self, paths: Iterable[str]) -> list[str]:
        """The paths of all files in some folders and in those within them: a request for each 1,000."""
        return [entry.path for entry in self._listed(paths)]

    def load_bytes(self, paths: Sequence[str]) -> CloseAfterUse:
        """The files at some paths, as Metaflow asks a storage for them."""
        load, paths = super().load_bytes, list(paths)
        if not MOST_ONE_BY_ONE < len(paths) <= MOST_BY_THREADS:
            return load(paths)
        parts = [paths[start : start + MOST_ONE_BY_ONE] for start in range(0, len(paths), MOST_ONE_BY_ONE)]
        with contextlib.ExitStack() as stack:
            self._connect()
            with ThreadPoolExecutor(THREADS) as pool:
                loaded = list(pool.map(lambda part: list(stack.enter_context(load(part))), parts))
            return CloseAfterUse((file for part in loaded for file in part), closer=stack.pop_all())

    def save_bytes(self, path_and_bytes_iter: Iterable[Any], overwrite: bool = False, len_hint: int = 0) -> None:
        """Save files, as Metaflow asks a storage to."""
        save = super().save_bytes
        if not MOST_ONE_BY_ONE < len_hint <= MOST_BY_THREADS:
            save(path_and_bytes_iter, overwrite=overwrite, len_hint=len_hint)
            return
        self._connect()
        with ThreadPoolExecutor(THREADS) as pool:
            # what comes is pickled as it is asked for, and may be large: no more of it than is sent
            running: set[Future[None]] = set()
            for file in path_and_bytes_iter:
                running.add(pool.submit(save, [file], overwrite=overwrite))
                if len(running) >= THREADS:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            for future in running:
                future.result()

    def _connect(self) -> Any:
        """The client, which is made only once, before threads share it."""
        return self.s3_client.client

    def _listed(self, paths: Iterable[str], **options: str) -> list[Any]:
        paths = list(paths)
        with ThreadPoolExecutor(THREADS) as pool:
            self._connect()
            each = pool.map(lambda path: list(self._in_folder(path, options)), paths)
            return [entry for found in each for entry in found]

    def _in_folder(self, path: str, options: Mapping[str, str]) -> Iterator[Any]:
        root = urlsplit(str(self.datastore_root))
        prefix = root.path.strip("/")
        above = f"{prefix}/" if prefix else ""
        pages = self._connect().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=root.netloc, Prefix=f"{above}{path.strip('/')}/", **options):
            for folder in page.get("CommonPrefixes", ()):
                yield self.list_content_result(path=folder["Prefix"][len(above) :].rstrip("/"), is_file=False)
            for file in page.get("Contents", ()):
                yield self.list_content_result(path=file["Key"][len(above) :], is_file=True)
