"""The commands of a system that runs steps from their code package, in an empty folder of this machine."""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from metaflow import util
from metaflow._vendor import click
from metaflow.mflog.mflog import decorate
from metaflow.package import MetaflowPackage

METADATA = '{"version": 0, "archive_format": "tgz", "mfcontent_version": 1}'


@click.group()
def cli():
    pass


@cli.group()
def elsewhere():
    pass


@elsewhere.command()
@click.argument("step-name")
@click.argument("code-package-url")
@click.option("--size")
@click.option("--run-id")
@click.option("--task-id")
@click.option("--input-paths")
@click.option("--split-index")
@click.option("--tag", multiple=True)
@click.option("--namespace")
@click.option("--retry-count")
@click.option("--max-user-code-retries")
@click.option("--clone-run-id")
@click.pass_context
def step(context, step_name, code_package_url, size, **options):
    notes = Path(os.environ["ELSEWHERE_NOTES"])
    job = f"e-{os.getpid()}"
    say = functools.partial(print, flush=True)
    say(f"[{job}] Task is starting (status QUEUED)...")
    atexit.register(lambda: (notes.parent / f"deleted-{job}").touch())
    (notes.parent / f"queued-{job}").touch()
    while (notes.parent / "queue").exists():
        time.sleep(0.05)
    folder = tempfile.mkdtemp(dir=notes.parent)
    for command in MetaflowPackage.get_extract_commands(METADATA, code_package_url, "."):
        subprocess.run(["bash", "-c", command], cwd=folder, check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_PIPES")}
    flow = os.path.basename(sys.argv[0])
    top_level = " ".join(util.dict_to_cli_options(context.parent.parent.params))
    arguments = " ".join(util.dict_to_cli_options(options))
    variables = context.obj.graph[step_name].decorators
    for decorator in (d for d in variables if d.name == "environment"):
        environment.update(decorator.attributes["vars"])
    process = subprocess.Popen(
        ["bash", "-c", f"{sys.executable} -u {flow} {top_level} step {step_name} {arguments}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    for line in process.stdout or ():
        say((decorate("task", b"[" + job.encode() + b"] " + line.rstrip(b"\n"))).decode())
    sys.exit(process.wait())


@elsewhere.command()
@click.option("--run-id")
def kill(run_id):
    (Path(os.environ["ELSEWHERE_NOTES"]).parent / f"killed-{run_id}").touch()
