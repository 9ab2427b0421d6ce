"""`make test-matrix`: the suite with the lowest and the highest Metaflow and Dagster that the package allows.

Each combination of Python and versions has a virtual environment of its own, in build/matrix. In the end the sentence
about versions is printed, for the README. Arguments are handed on to pytest.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import tomli

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "matrix"
PYTHONS = ("3.10", "3.13")
# The packages whose releases matter. The integrations of Dagster ask for the one release of it that they were made for.
PACKAGES = ("metaflow", "dagster")


def main(arguments: list[str]) -> int:
    """Run the suite in each environment; the exit code is 1 if it fails in one."""
    tested: list[dict[str, str]] = []
    failed: list[str] = []
    for python in PYTHONS:
        for name, constraints in (("lowest", lowest()), ("highest", [])):
            environment = FOLDER / f"{python}-{name}"
            interpreter = prepare(environment, python, constraints)
            versions = versions_in(interpreter)
            print(f"=== {environment.name}: {versions}", flush=True)
            command = [str(interpreter), "-m", "pytest", "-n", "2", "--dist", "loadgroup", *arguments]
            if subprocess.run(command, cwd=ROOT, check=False).returncode == 0:
                tested.append({"python": python, **versions})
            else:
                failed.append(environment.name)
    if failed:
        print(f"failed with {', '.join(failed)}", file=sys.stderr)
        return 1
    print(sentence(tested))
    return 0


def lowest() -> list[str]:
    """The lower bounds of `PACKAGES` in pyproject.toml, as constraints: `metaflow==2.19`."""
    dependencies = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = dict(re.match(r"([\w-]+)>=([\d.]+)", dependency).groups() for dependency in dependencies)
    return [f"{package}=={bounds[package]}" for package in PACKAGES]


def prepare(environment: Path, python: str, constraints: list[str]) -> Path:
    """Make an environment with the package and its development tools, and return its interpreter."""
    environment.parent.mkdir(parents=True, exist_ok=True)
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--allow-existing", "--python", python, str(environment)], check=True)
    interpreter = environment / "bin" / "python"
    file = environment / "constraints.txt"
    file.write_text("".join(f"{constraint}\n" for constraint in constraints))
    options = ["--quiet", "--upgrade", "--python", str(interpreter), "--constraint", str(file)]
    subprocess.run([*uv, "pip", "install", *options, "--editable", f"{ROOT}[dev]"], check=True)
    return interpreter


def versions_in(interpreter: Path) -> dict[str, str]:
    """The versions of `PACKAGES` in an environment."""
    code = f"import json, importlib.metadata as m; print(json.dumps({{p: m.version(p) for p in {PACKAGES!r}}}))"
    return json.loads(subprocess.check_output([str(interpreter), "-c", code], text=True))


def sentence(tested: list[dict[str, str]]) -> str:
    """The README's sentence about versions.

    Args:
        tested: For each environment that the suite has passed in, the versions in it.
    """

    def range_of(name: str) -> str:
        versions = sorted({versions[name] for versions in tested}, key=lambda text: [int(n) for n in text.split(".")])
        return " to ".join(dict.fromkeys([versions[0], versions[-1]]))

    return (
        f"Tested with Metaflow {range_of('metaflow')}, Dagster {range_of('dagster')}, and Python {range_of('python')}."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
