"""A stand-in for micromamba, which makes virtual environments: `python micromamba.py HOME ARGUMENT...`.

It answers as micromamba and the pip in its environments do, as far as Metaflow asks: each package that is asked for is
a module of that name with its version.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from pathlib import Path

from interpreters import link_requirements, site_packages, virtual_environment

HOME = Path(sys.argv[1])
ENVIRONMENTS = HOME / "envs"
PACKAGES = HOME / "pkgs"
URL = "https://packages.test/"


def option(name: str, arguments: list[str]) -> str:
    """The value of an option, behind it or after an equals sign."""
    for position, argument in enumerate(arguments):
        if argument == name:
            return arguments[position + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    raise AssertionError(f"{name} in {arguments}")


def create(arguments: list[str]) -> dict:
    if "--dry-run" in arguments:
        asked = [argument for argument in arguments if re.fullmatch(r"[a-z0-9-]+==.*", argument)]
        return {"actions": {"LINK": [{"url": f"{URL}{name.replace('==', '-')}.conda"} for name in asked]}}
    files = [argument for argument in arguments if argument.startswith(URL)]
    if "--download-only" in arguments:
        download(files, PACKAGES)
        return {}
    if "--file" in arguments:
        # as the bootstrap of a job asks for it
        files = Path(option("--file", arguments)).read_text().splitlines()[1:]
    folder = Path(option("--prefix", arguments))
    virtual_environment(folder)
    link_requirements("metaflow", folder)
    with (HOME / "created").open("a") as file:
        file.write(f"{folder}\n")
    install(files, folder)
    return {}


def download(urls: list[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for url in urls:
        (folder / url.rpartition("/")[2]).write_text("a package")


def install(files: list[str], environment: Path) -> None:
    for file in files:
        match = re.fullmatch(r"(.+?)-([0-9.]+?)(-py3-none-any)?\.(conda|whl)", file.rpartition("/")[2])
        name, version = (match[1], match[2]) if match else (file, "")
        module = site_packages(environment) / f"{name.replace('-', '_')}.py"
        # those that Metaflow requires are there
        if name != "python" and not module.exists() and not module.with_suffix("").exists():
            module.write_text(f"__version__ = {version!r}\n")


def pip(arguments: list[str], environment: Path) -> None:
    command = next(argument for argument in arguments if not argument.startswith("--"))
    if command == "install" and "--dry-run" in arguments:
        asked = [argument for argument in arguments if re.match(r"[a-z0-9-]+[=<>~]=", argument)]
        wheels = [re.sub(r"[=<>~]=", "-", name).partition(",")[0] for name in asked]
        found = [{"download_info": {"url": f"{URL}{name}-py3-none-any.whl"}} for name in wheels]
        Path(option("--report", arguments)).write_text(json.dumps({"install": found}))
    elif command == "download":
        download([argument for argument in arguments if argument.startswith(URL)], Path(option("--dest", arguments)))
    elif command == "install":
        install([argument for argument in arguments if argument.endswith(".whl")], environment)


def main(arguments: list[str]) -> object:
    if arguments[0] == "create":
        return create(arguments)
    if arguments[0] == "run":
        position = next(index for index, argument in enumerate(arguments) if argument in ("pip", "pip3"))
        return pip(arguments[position + 1 :], Path(option("--prefix", arguments)))
    if arguments[0] == "list":
        return [{"name": "python", "version": platform.python_version()}]
    if arguments[:2] == ["env", "list"]:
        return {"envs": [str(path) for path in ENVIRONMENTS.glob("metaflow/*/*")]}
    assert arguments[0] == "config", arguments
    PACKAGES.mkdir(exist_ok=True)
    return {
        "channels": ["conda-forge"],
        "envs_dirs": [str(ENVIRONMENTS)],
        "pkgs_dirs": [str(PACKAGES)],
        "platform": "linux-aarch64" if platform.machine() == "aarch64" else "linux-64",
    }


if __name__ == "__main__":
    answer = main(sys.argv[2:])
    if answer is not None:
        print(json.dumps(answer))
