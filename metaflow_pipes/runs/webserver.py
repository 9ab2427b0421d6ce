"""Runs of a Dagster deployment behind a webserver, over its GraphQL API: its ordinary queue and run launcher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests

from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.names import (
    PARTITION_RANGE_END_TAG,
    PARTITION_RANGE_START_TAG,
    SPLITS_METADATA,
    URL_VARIABLE,
    event_path,
)
from metaflow_pipes.partition_keys import known_keys
from metaflow_pipes.runs import graphql
from metaflow_pipes.runs.partitions import ends_of, no_partitions
from metaflow_pipes.runs.service import (
    CLONED_METADATA,
    RUN_EVENTS,
    STEP_EVENTS,
    RunRecord,
    RunStatus,
    StepEvent,
    reason_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from metaflow_pipes.deployment.definitions_file import Deployment
    from metaflow_pipes.runs.service import OnCreated

TIMEOUT_SECONDS = 60
# How many runs and events an answer holds.
_RUN_PAGE = 200
_EVENT_PAGE = 1000
# How much is shown of an answer that is none of Dagster's.
_SHOWN_CHARACTERS = 200
# Where the webserver takes materializations; the asset's key is in the body.
_REPORT_PATH = "report_asset_materialization/"


class Webserver:
    """A Dagster deployment behind a webserver.

    Args:
        url: The webserver's address, as a browser opens it: `https://dagster.example.com`.
        token: A token for `Dagster-Cloud-Api-Token`, as Dagster+ asks for; None for none.
    """

    def __init__(self, url: str, token: str | None = None):
        self._url = url.rstrip("/")
        if not self._url.startswith(("http://", "https://")):
            raise DeploymentError(f"{url!r} is no address of a Dagster webserver: it begins with http:// or https://.")
        self._headers = {"Dagster-Cloud-Api-Token": token} if token else {}

    def __str__(self) -> str:
        return f"Dagster at {self._url}"

    def launch(
        self,
        deployment: Deployment,
        run_config: Mapping[str, Any],
        tags: Mapping[str, str],
        on_created: OnCreated,
        partition: str | None = None,
    ) -> RunRecord:
        """As `DagsterService.launch`: by the deployment's queue and run launcher, from what it has loaded."""
        selector = self._selector(deployment)
        if partition is not None:
            tags = {**self._partition_tags(deployment, selector, partition), **tags}
        params = {
            "selector": selector,
            "runConfigData": dict(run_config),
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        result = self._ask(graphql.LAUNCH, "launchRun", {"params": params})
        if result["__typename"] == "RunConfigValidationInvalid":
            problems = "\n".join(f"  {error['message']}" for error in result["errors"])
            raise DeploymentError(f"Dagster refuses the run config of job {deployment.name}:\n{problems}")
        run = _record(self._expect("LaunchRunSuccess", result)["run"])
        on_created(run)
        return run

    def run(self, dagster_run_id: str) -> RunRecord | None:
        """As `DagsterService.run`."""
        return next(self._runs({"runIds": [dagster_run_id]}, 1), None)

    def runs(self, tags: Mapping[str, str], statuses: Sequence[RunStatus] = (), limit: int = 20) -> list[RunRecord]:
        """As `DagsterService.runs`."""
        of_dagster = [name for status in statuses for name in status.dagster_statuses]
        filter_: dict[str, Any] = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
        return list(self._runs({**filter_, "statuses": of_dagster} if of_dagster else filter_, limit))

    def events(self, dagster_run_id: str, cursor: str | None) -> tuple[list[StepEvent], str | None]:
        """As `DagsterService.events`."""
        found: list[StepEvent] = []
        while True:
            variables = {"runId": dagster_run_id, "cursor": cursor, "limit": _EVENT_PAGE}
            page = self._expect("EventConnection", self._ask(graphql.EVENTS, "logsForRun", variables))
            kinds = STEP_EVENTS | RUN_EVENTS
            found += [_step_event(event) for event in page["events"] if event.get("eventType") in kinds]
            cursor = page["cursor"]
            if not page["hasMore"]:
                return found, cursor

    def terminate(self, run: RunRecord) -> None:
        """As `DagsterService.terminate`."""
        result = self._ask(graphql.TERMINATE, "terminateRun", {"runId": run.dagster_run_id})
        # the run launcher does not know a background process, but that ends the run when it is asked for
        if result["__typename"] != "TerminateRunSuccess" and run.worker is None:
            raise DeploymentError(f"Run {run.metaflow_run_id} can't be terminated: {result.get('message')}")

    def switch_automation(self, deployment: Deployment, *, is_on: bool) -> list[str]:
        """As `DagsterService.switch_automation`, of what the deployment has loaded."""
        from metaflow_pipes.runs.loading import load_automation  # imports Dagster

        names = [definition.name for definition in load_automation(str(deployment.definitions_file))]
        job = self._selector(deployment)
        repository = {name: job[name] for name in ("repositoryName", "repositoryLocationName")}
        found = self._ask(graphql.REPOSITORY_AUTOMATION, "repositoryOrError", {"selector": repository})
        states = {
            instigator["name"]: instigator.get("scheduleState") or instigator["sensorState"]
            for kind in ("schedules", "sensors")
            for instigator in self._expect("Repository", found)[kind]
        }
        missing = [name for name in names if name not in states]
        if missing:
            raise DeploymentError(
                f"{self} has the job {deployment.name}, but no {', '.join(missing)}. Has its code location been "
                "reloaded since the flow was compiled?"
            )
        for name in names:
            if is_on != (states[name]["status"] == "RUNNING"):
                self._switch(states[name], repository, is_on=is_on)
        return names

    def _switch(self, state: Mapping[str, Any], repository: Mapping[str, str], *, is_on: bool) -> None:
        """Start or stop a schedule or sensor."""
        is_schedule = state["instigationType"] == "SCHEDULE"
        if is_on:
            selector = {**repository, "scheduleName" if is_schedule else "sensorName": state["name"]}
            query = graphql.START_SCHEDULE if is_schedule else graphql.START_SENSOR
            answer = self._ask(query, "startSchedule" if is_schedule else "startSensor", {"selector": selector})
        else:
            query = graphql.STOP_SCHEDULE if is_schedule else graphql.STOP_SENSOR
            answer = self._ask(query, "stopRunningSchedule" if is_schedule else "stopSensor", {"id": state["id"]})
        if "message" in answer:
            raise DeploymentError(f"{self} answers, of {state['name']}: {answer['message']}")

    def publish(self, name: str, payload: Mapping[str, Any]) -> None:
        """As `DagsterService.publish`: by the webserver's own address for materializations."""
        body = {"asset_key": event_path(name), "metadata": dict(payload)}
        answer = self._post(_REPORT_PATH, body)
        if not isinstance(answer, dict) or answer.get("error"):
            raise DeploymentError(f"{self} refuses the event: {str(answer)[:_SHOWN_CHARACTERS]}")

    def url(self, dagster_run_id: str) -> str:
        """As `DagsterService.url`."""
        return f"{self._url}/runs/{dagster_run_id}"

    def ui_command(self, deployment: Deployment) -> str | None:
        """As `DagsterService.ui_command`."""
        del deployment
        return None

    def jobs(self) -> list[tuple[str, str, str]]:
        """The jobs of the deployment, each as its name, its repository and its code location."""
        repositories = self._expect("RepositoryConnection", self._ask(graphql.JOBS, "repositoriesOrError", {}))["nodes"]
        return [
            (job["name"], repository["name"], repository["location"]["name"])
            for repository in repositories
            for job in repository["jobs"]
        ]

    def _selector(self, deployment: Deployment) -> dict[str, str]:
        places = [(repository, location) for name, repository, location in self.jobs() if name == deployment.name]
        if not places:
            raise DeploymentError(
                f"{self} has no job {deployment.name}. Is {deployment.definitions_file.name} among the files that it "
                "loads, and has its code location been reloaded since?"
            )
        # the file's name is that of its code location, if `dagster dev -f` has loaded it
        named = [place for place in places if place[1] == deployment.definitions_file.name]
        if len(places) > 1 and len(named) != 1:
            locations = ", ".join(location for _, location in places)
            raise DeploymentError(
                f"{self} has the job {deployment.name} in several code locations: {locations}. Give the jobs names of "
                "their own by `create --name`."
            )
        repository, location = named[0] if len(named) == 1 else places[0]
        return {
            "jobName": deployment.name,
            "repositoryName": repository,
            "repositoryLocationName": location,
        }

    def _partition_tags(self, deployment: Deployment, selector: Mapping[str, str], partition: str) -> dict[str, str]:
        """The tags by which Dagster knows a run's partition.

        Raises:
            DeploymentError: The job has no such partition; says which there are.
        """
        first, last = ends_of(partition, deployment)
        of_job = {"pipelineName": selector["jobName"], **{k: v for k, v in selector.items() if k != "jobName"}}
        job = self._expect("Pipeline", self._ask(graphql.PARTITIONS, "pipelineOrError", {"selector": of_job}))
        keys = job["partitionKeysOrError"]["partitionKeys"]
        if not keys and not deployment.partition_parameters:
            raise no_partitions(deployment)
        for key in (first, last or first):
            if key not in keys:
                raise DeploymentError(
                    f"The job {deployment.name} can't run the partition {partition}: there is no partition {key!r}. "
                    f"{known_keys(keys)}"
                )
        if last is not None:
            return {PARTITION_RANGE_START_TAG: first, PARTITION_RANGE_END_TAG: last}
        answer = self._ask(graphql.PARTITION_TAGS, "pipelineOrError", {"selector": of_job, "key": first})
        found = self._expect("Pipeline", answer)["partition"]["tagsOrError"]
        return {tag["key"]: tag["value"] for tag in self._expect("PartitionTags", found)["results"]}

    def _runs(self, filter_: Mapping[str, Any], limit: int) -> Iterator[RunRecord]:
        cursor = None
        while limit > 0:
            count = min(limit, _RUN_PAGE)
            variables = {"filter": filter_, "cursor": cursor, "limit": count}
            page = self._expect("Runs", self._ask(graphql.RUNS, "runsOrError", variables))["results"]
            yield from map(_record, page)
            if len(page) < count:
                return
            cursor, limit = page[-1]["runId"], limit - count

    def _ask(self, query: str, field: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._post("graphql", {"query": query, "variables": variables})
        try:
            if answer.get("errors"):
                raise DeploymentError(f"{self} answers: {answer['errors'][0].get('message')}")
            return answer["data"][field]
        except (AttributeError, KeyError, IndexError, TypeError):
            raise DeploymentError(
                f"What answers at {self._url}/graphql is no Dagster webserver: {str(answer)[:_SHOWN_CHARACTERS]}. Its "
                f"address is that of --url or {URL_VARIABLE}."
            ) from None

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that is answered to JSON."""
        try:
            response = requests.post(f"{self._url}/{path}", json=body, headers=self._headers, timeout=TIMEOUT_SECONDS)
            response.raise_for_status()
            return response.json()
        except requests.JSONDecodeError:
            raise DeploymentError(
                f"What answers at {self._url}/{path} is no Dagster webserver. Its address is that of --url or "
                f"{URL_VARIABLE}."
            ) from None
        except requests.RequestException as error:
            response = error.response
            reason = type(error).__name__ if response is None else f"{response.status_code} {response.reason}"
            raise DeploymentError(
                f"{self} can't be reached ({reason}). Is the webserver running there? Its address is that of --url or "
                f"{URL_VARIABLE}."
            ) from None

    def _expect(self, type_: str, result: dict[str, Any]) -> dict[str, Any]:
        if result["__typename"] != type_:
            raise DeploymentError(f"{self} answers: {result.get('message') or result['__typename']}")
        return result


def _record(run: Mapping[str, Any]) -> RunRecord:
    return RunRecord(
        dagster_run_id=run["runId"],
        job_name=run["pipelineName"],
        status=RunStatus.of(run["status"]),
        tags={tag["key"]: tag["value"] for tag in run["tags"]},
        is_selection=bool(run["stepKeysToExecute"]),
        created_at=run["creationTime"],
        started_at=run["startTime"],
        ended_at=run["endTime"],
    )


def _step_event(event: Mapping[str, Any]) -> StepEvent:
    metadata = {entry["label"]: entry.get("intValue") for entry in event.get("metadataEntries", ())}
    message = None
    if event["eventType"] in ("STEP_FAILURE", "STEP_UP_FOR_RETRY"):
        error = event.get("error") or {}
        innermost = (error.get("causes") or [error])[-1].get("message")
        described = (event.get("failureMetadata") or {}).get("description")
        message = described or reason_of(innermost or event["message"])
    elif event["eventType"] in RUN_EVENTS:
        error = event.get("error")
        message = (
            error["message"].strip() if error else event["message"] if event["eventType"] == "RUN_FAILURE" else None
        )
    return StepEvent(
        kind=event["eventType"],
        step_key=event["stepKey"] or "",
        timestamp=float(event["timestamp"]) / 1000,
        num_splits=metadata.get(SPLITS_METADATA),
        is_cloned=CLONED_METADATA in metadata,
        message=message,
    )
