"""A reader of the tutorial, who does word for word what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

from manual import TUTORIAL, Block, blocks_of
from support import Project

if TYPE_CHECKING:
    from pathlib import Path

# Where the tutorial puts a block into the file that the reader has: a pattern of what it replaces.
PLACES = {
    "above the step start": r"    @step\n    def start\(self\):\n",
    "the import": r"from metaflow import .*\n",
    "above the class": r"class WeatherFlow\(FlowSpec\):\n",
}
SECTIONS = list(dict.fromkeys(block.section for block in blocks_of(TUTORIAL)))


class Reader:
    """A reader with an empty folder and an empty Dagster instance.

    Attributes:
        project: The folder.
        home: The `DAGSTER_HOME`.
    """

    def __init__(self, folder: Path):
        self.project = Project.of(folder / "weather")
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text("telemetry: {enabled: false}")

    def follow(self, section: str) -> list[str]:
        """Write the files of a section, and run its commands.

        Args:
            section: Its heading.

        Returns:
            What commands of Metaflow and Python have printed.
        """
        blocks = [block for block in blocks_of(TUTORIAL) if block.section == section and block.key != "not run"]
        return [text for block in blocks for text in self._outputs(block)]

    def _outputs(self, block: Block) -> list[str]:
        if block.title:
            self._edit(block)
            return []
        if block.language == "python":
            return [self._python("-c", block.text)]
        outputs = []
        for command in block.commands:
            program, *arguments = shlex.split(command)
            if program == "dagster":
                self._python("-m", "dagster", *arguments)
            else:
                outputs.append(self.project.metaflow(*arguments, DAGSTER_HOME=str(self.home)).stdout)
        return outputs

    def _python(self, *arguments: str) -> str:
        env = {**os.environ, "DAGSTER_HOME": str(self.home)}
        command = [sys.executable, *arguments]
        folder = self.project.folder
        return subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout

    def _edit(self, block: Block) -> None:
        name, _, place = block.title.partition(": ")
        file = self.project.folder / name
        text = block.text
        if place:
            text, changes = re.subn(PLACES[place], lambda _: block.text, file.read_text())
            assert changes == 1
        file.write_text(text)
