"""The request of an op, as the step's side reads it: one attempt of one Metaflow task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from step_wrapper import wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagster_pipes import PipesContext


class Launch(wire.Request):
    """One attempt of a Metaflow task, and what follows from what was asked for."""

    __slots__ = ()

    @property
    def storage(self) -> str:
        """The datastore, as a message names it."""
        return f"the {self.datastore} datastore {self.datastore_root}"

    @property
    def metadata(self) -> str:
        """The type of the metadata provider."""
        return self.option("--metadata") or "local"

    @property
    def tags(self) -> list[str]:
        """The Metaflow tags of the run."""
        return self._values("--tag")

    @property
    def all_system_tags(self) -> list[str]:
        """The system tags of the task, and of a run that it is the first one of."""
        return [f"dagster_run_id:{self.dagster_run_id}", *self.system_tags]

    @property
    def input_paths(self) -> list[str]:
        """The tasks whose artifacts it takes, each `run_id/step/task_id`."""
        return next(iter(self._values("--input-paths"))).split(",")

    @property
    def parameters(self) -> str:
        """The task that holds the parameters of a new run, `run_id/_parameters/task_id`."""
        return self.input_paths[0]

    @property
    def user_code_retries(self) -> int:
        """The number of retries that run the user's code."""
        return int(self.option("--max-user-code-retries") or 0)

    def option(self, name: str, arguments: Sequence[str] | None = None) -> str | None:
        """The value of an option of Metaflow's `step` command, or None.

        Args:
            name: The option, with its hyphens.
            arguments: The command's arguments, if not those of the request.
        """
        return next(iter(self._values(name, arguments)), None)

    def resuming(self, origin_run_id: str) -> Launch:
        """The attempt, now that it is known which run it resumes.

        Args:
            origin_run_id: The Metaflow run.
        """
        assert self.resumption is not None
        return self._replace(
            resumption=self.resumption._replace(origin_run_id=origin_run_id),
            command=[*self.command, f"--clone-run-id={origin_run_id}"],
        )

    def _values(self, option: str, arguments: Sequence[str] | None = None) -> list[str]:
        given = self.command if arguments is None else arguments
        return [argument.partition("=")[2] for argument in given if argument.startswith(f"{option}=")]

    @classmethod
    def from_pipes(cls, context: PipesContext) -> Launch:
        """Read what the op has sent along.

        Raises:
            step_wrapper.wire.OtherVersionError: The op is of another version of this package.
        """
        return cls(**wire.Request.values_in(context.extras))
