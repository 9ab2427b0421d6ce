import atexit
import gc
import json
import locale
import logging
import multiprocessing
import os
import pickle
import random
import resource
import secrets
import signal
import sys
import tempfile
import threading
import uuid
import warnings
from pathlib import Path

import numpy as np
from metaflow import FlowSpec, environment, step


class Point:
    """A class of the flow file, which artifacts and other processes hold."""

    def __init__(self, x):
        self.x = x


def limits():
    return {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}


def dispositions():
    numbers = sorted(signal.valid_signals())
    return {number: getattr(signal.getsignal(number), "__name__", str(signal.getsignal(number))) for number in numbers}


def shared_facts():
    """Facts that are the same in each process that runs a step, whoever starts it."""
    umask = os.umask(0)
    os.umask(umask)
    main = sys.modules["__main__"]
    return {
        "name": __name__,
        "main file": Path(main.__file__).name,
        "main": sorted(name for name in vars(main) if name.startswith("__")),
        "main class": (Point.__module__, Point.__qualname__, main.Point is Point),
        "pickled": pickle.loads(pickle.dumps(Point(3))).x,
        "argv[0]": Path(sys.argv[0]).name,
        "executable": (sys.executable, sys.prefix),
        "flags": tuple(sys.flags),
        "warnoptions": sys.warnoptions,
        "path": sys.path,
        "warnings": len(warnings.filters),
        "recursion limit": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
        "trace": (sys.gettrace(), sys.getprofile()),
        "cwd": os.getcwd(),
        "umask": umask,
        "limits": limits(),
        "signals": dispositions(),
        "blocked signals": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "timer": (signal.getitimer(signal.ITIMER_REAL), signal.set_wakeup_fd(-1)),
        "locale": (locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(), sys.getfilesystemencoding()),
        "stdout": (sys.stdout.encoding, sys.stdout.errors, sys.stdout.isatty()),
        "stderr": (sys.stderr.encoding, sys.stderr.errors, sys.stderr.isatty()),
        "threads": [thread.name for thread in threading.enumerate()],
        "is main thread": threading.current_thread() is threading.main_thread(),
        "garbage": (gc.isenabled(), gc.get_debug()),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "cpus": sorted(os.sched_getaffinity(0)),
        "logging": (logging.root.level, len(logging.root.handlers)),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "children": len(multiprocessing.active_children()),
        "groups": (os.getuid(), os.getgid(), os.getgroups()),
        "hash seed": (os.environ.get("PYTHONHASHSEED"), hash("text") if "PYTHONHASHSEED" in os.environ else None),
        "threads of libraries": os.environ.get("OMP_NUM_THREADS"),
    }


def kind(descriptor):
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").split(":")[0].split("-")[0]
    except OSError:  # the folder's own, which was read to list them
        return None


def facts_of_the_wrapper():
    """Facts that Metaflow's own runner has others of, but that are the same however the wrapper is started."""
    descriptors = sorted(map(int, os.listdir("/proc/self/fd")))
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return {
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "cmdline": Path("/proc/self/cmdline").read_bytes(),
        "comm": Path("/proc/self/comm").read_text(),
        "environment": dict(os.environ),
        "initial environment": sorted(filter(None, Path("/proc/self/environ").read_bytes().split(b"\0"))),
        "descriptors": {number: kind(number) for number in descriptors if kind(number) is not None},
        "inheritable": [number for number in descriptors if kind(number) is not None and os.get_inheritable(number)],
        "stdin": os.readlink("/proc/self/fd/0"),
        "garbage thresholds": gc.get_threshold(),
        "line buffering": (sys.stdout.line_buffering, sys.stderr.line_buffering),
        "session": os.getsid(0) == os.getppid(),
        "group": os.getpgrp() == os.getpid(),
        "terminal": stat[4],
    }


def drawn():
    """Values that no two processes have in common."""
    return {
        "random": random.random(),
        "instance of random": random.Random().random(),
        "uuid1": str(uuid.uuid1()),
        "uuid4": str(uuid.uuid4()),
        "secrets": secrets.token_hex(),
        "numpy.random": float(np.random.random()),
        "numpy generator": float(np.random.default_rng().random()),
        "temporary name": tempfile.mktemp(),
        "key of multiprocessing": bytes(multiprocessing.current_process().authkey).hex(),
        "pid": os.getpid(),
    }


def report_to(connection, point):
    facts = [__name__, type(point).__module__, point.x, sys.argv[1:2], os.environ.get("OMP_NUM_THREADS"), os.getcwd()]
    connection.send(facts)


def by_multiprocessing(method):
    context = multiprocessing.get_context(method)
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=report_to, args=(writer, Point(5)))
    process.start()
    facts = reader.recv() if reader.poll(60) else None
    process.join()
    return process.exitcode, facts


def at_exit(text):
    print(text, flush=True)


class ProcessFactsFlow(FlowSpec):
    """Records its tasks' processes."""

    def record(self):
        self.facts = shared_facts()
        self.wrapper = facts_of_the_wrapper()
        self.drawn = drawn()
        self.point = Point(7)
        supervisor = Path(f"/proc/{os.getppid()}/stat").read_text()
        self.parent = int(supervisor.rpartition(")")[2].split()[1])
        self.parent_command = Path(f"/proc/{self.parent}/cmdline").read_bytes().split(b"\0")

    @environment(vars={"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "3"})
    @step
    def start(self):
        self.record()
        self.items = [0, 1, 2]
        self.children = {method: by_multiprocessing(method) for method in ("fork", "spawn", "forkserver")}
        self.next(self.work, foreach="items")

    @step
    def work(self):
        self.record()
        self.next(self.join)

    @environment(vars={"PYTHONVERBOSE": "1"})
    @step
    def join(self, inputs):
        self.points = [entry.point.x for entry in inputs]
        self.record()
        self.next(self.end)

    @step
    def end(self):
        self.record()
        atexit.register(at_exit, "exit handler")
        released = threading.Event()
        thread = threading.Thread(target=lambda: (released.wait(), at_exit("thread")), name="late")
        thread.start()
        threading.Timer(0.1, released.set).start()
        print(json.dumps({"step": "end"}))


if __name__ == "__main__":
    ProcessFactsFlow()
