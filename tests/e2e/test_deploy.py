"""The files of `deploy/`, as far as neither containers nor a cluster are needed to check them."""

from __future__ import annotations

import json
import re
import shlex
import sys
from functools import cache
from importlib.metadata import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from dagster._cli import create_dagster_cli
from dagster._config import process_config
from dagster._core.instance.config import dagster_instance_config
from dagster._daemon.cli import create_dagster_daemon_cli
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_webserver.cli import dagster_webserver

if TYPE_CHECKING:
    import dagster as dg
    from support import Project

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
COMMANDS = {
    "dagster": create_dagster_cli(),
    "dagster-webserver": dagster_webserver,
    "dagster-daemon": create_dagster_daemon_cli(),
}
# The parts of the values of Dagster's chart (1.13) that are used, each with the keys that the chart knows there.
CHART = {
    "": {"dagster-user-deployments", "dagsterDaemon", "postgresql", "runLauncher", "telemetry"},
    "dagster-user-deployments": {"enabled", "enableSubchart", "imagePullSecrets", "deployments"},
    "dagster-user-deployments.deployments": {
        *("name", "image", "port", "dagsterApiGrpcArgs", "codeServerArgs", "includeConfigInLaunchedRuns", "env"),
        *("envConfigMaps", "envSecrets", "annotations", "nodeSelector", "affinity", "tolerations", "resources"),
        *("podSecurityContext", "securityContext", "livenessProbe", "readinessProbe", "startupProbe", "labels"),
        *("volumeMounts", "volumes", "schedulerName"),
    },
    "dagster-user-deployments.deployments.image": {"repository", "tag", "pullPolicy"},
    "dagster-user-deployments.deployments.includeConfigInLaunchedRuns": {"enabled"},
    "runLauncher": {"type", "config"},
    "runLauncher.config": {"celeryK8sRunLauncher", "k8sRunLauncher", "customRunLauncher"},
    "runLauncher.config.k8sRunLauncher": {
        *("image", "imagePullPolicy", "jobNamespace", "loadInclusterConfig", "kubeconfigFile", "envConfigMaps"),
        *("envSecrets", "envVars", "volumeMounts", "volumes", "labels", "failPodOnRunFailure", "resources"),
        *("schedulerName", "securityContext", "runK8sConfig"),
    },
    "dagsterDaemon": {
        *("enabled", "image", "runCoordinator", "heartbeatTolerance", "env", "envConfigMaps", "envSecrets"),
        *("runMonitoring", "runRetries", "sensors", "schedules", "resources", "nodeSelector", "labels"),
    },
    "dagsterDaemon.runMonitoring": {
        *("enabled", "startTimeoutSeconds", "cancelTimeoutSeconds", "maxResumeRunAttempts", "maxRuntimeSeconds"),
        *("pollIntervalSeconds", "freeSlotsAfterRunEndSeconds"),
    },
    "postgresql": {"enabled", "postgresqlHost", "postgresqlUsername", "postgresqlPassword", "postgresqlDatabase"},
    "telemetry": {"enabled"},
}
# Beneath these, keys are the user's own, or Kubernetes's.
FREE = {"dagster-user-deployments.deployments.env", "runLauncher.config.k8sRunLauncher.resources"}


@cache
def _loaded(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def _check_command(command: str | list[str]) -> dict[str, Any]:
    """Let a command of Dagster read its arguments, without running it; returns their values."""
    name, *arguments = shlex.split(command) if isinstance(command, str) else command
    context, found = None, COMMANDS[name]
    while isinstance(found, click.Group):
        context = found.make_context(name, list(arguments), parent=context, resilient_parsing=True)
        name, found, arguments = found.resolve_command(context, arguments)
    assert found is not None
    return found.make_context(name, list(arguments), parent=context).params


def test_containers_of_the_compose_file_have_what_they_need():
    compose = _loaded("docker-compose.yaml")
    services = compose["services"]
    ours = {"flows", "webserver", "daemon"}
    assert set(services) == {"postgres", "s3", "bucket", *ours}
    for name, service in services.items():
        assert service.keys() <= {
            *("image", "build", "command", "entrypoint", "environment", "volumes", "depends_on", "restart"),
            *("healthcheck", "ports"),
        }
        assert "image" in service
        for other, condition in service.get("depends_on", {}).items():
            is_healthy = condition["condition"] == "service_healthy"
            assert ("healthcheck" in services[other]) is is_healthy, f"{name} waits for {other}"
        for volume in service.get("volumes", []):
            source = volume.rpartition(":")[0]
            assert source in compose["volumes"] or source.startswith("${"), volume
    assert {service["image"] for name, service in services.items() if name in ours} == {services["flows"]["image"]}
    # what the instance takes from the environment
    asked = set(re.findall(r"env: (\w+)", (DEPLOY / "dagster.yaml").read_text()))
    assert asked <= services["flows"]["environment"].keys()
    for name in ("DAGSTER_PG_USER", "DAGSTER_PG_PASSWORD", "DAGSTER_PG_DB"):
        of_server = name.replace("DAGSTER_PG", "POSTGRES")
        assert services["postgres"]["environment"][of_server] == services["flows"]["environment"][name]
    assert (DEPLOY / services["flows"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / services["flows"]["build"]["dockerfile"]).is_file()


def test_dagster_takes_the_commands_of_the_containers():
    services = _loaded("docker-compose.yaml")["services"]
    server = _check_command(services["flows"]["command"])
    (location,) = _loaded("workspace.yaml")["load_from"]
    assert location["grpc_server"]["host"] == "flows"
    assert location["grpc_server"]["port"] == server["port"]
    assert _check_command(services["flows"]["healthcheck"]["test"][1:])["port"] == server["port"]
    # the options say that the file has to be there: here it is elsewhere
    here = [
        _check_command(services[name]["command"].replace("/opt/dagster/workspace.yaml", str(DEPLOY / "workspace.yaml")))
        for name in ("webserver", "daemon")
    ]
    assert [list(options["workspace"]) for options in here] == [[str(DEPLOY / "workspace.yaml")]] * 2
    assert services["webserver"]["ports"] == [f"{here[0]['port']}:{here[0]['port']}"]


def test_image_is_made_of_what_is_there():
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    instructions = [line.partition(" ")[::2] for line in text.splitlines() if line and not line.startswith("#")]
    arguments = dict(line.split("=", 1) for name, line in instructions if name == "ARG")
    targets = set()
    for name, line in instructions:
        if name == "COPY":
            *sources, target = [word for word in line.split() if not word.startswith("--")]
            for source in sources:
                path = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], source)
                assert (ROOT / path).exists(), path
                targets.add(f"{target}{Path(path).name}")
    (wanted,) = re.findall(r"metaflow-pipes\[([\w,]+)\]", text)
    assert set(wanted.split(",")) <= set(metadata("metaflow-pipes").get_all("Provides-Extra") or ())
    (user,) = [line for name, line in instructions if name == "USER"]
    assert user == "dagster"
    # Docker makes a volume the user's only where the image has the folder
    (made,) = re.findall(r"mkdir -p ([^&]+)", text)
    for volume in _loaded("docker-compose.yaml")["services"]["flows"]["volumes"]:
        assert volume.rpartition(":")[2] in made.split()
    (command,) = [json.loads(line) for name, line in instructions if name == "CMD"]
    server = _check_command(command)
    assert server["python_file"] in targets
    assert [line for name, line in instructions if name == "EXPOSE"] == [str(server["port"])]
    assert "/opt/dagster/workspace.yaml" in targets


def test_instance_of_the_containers_is_one_that_dagster_takes():
    config, _ = dagster_instance_config(str(DEPLOY))
    assert config["storage"]["postgres"]["postgres_db"]["hostname"] == {"env": "DAGSTER_PG_HOST"}
    (volume,) = [v for v in _loaded("docker-compose.yaml")["services"]["daemon"]["volumes"] if v.startswith("logs:")]
    assert config["compute_logs"]["config"]["base_dir"] == volume.removeprefix("logs:")


def test_helm_values_are_ones_that_the_chart_knows():
    values = _loaded("values.yaml")
    used = set()

    def check(part: Any, path: str) -> None:
        if isinstance(part, list):
            for item in part:
                check(item, path)
        elif isinstance(part, dict) and path not in FREE and not path.endswith("envSecrets"):
            used.add(path)
            assert part.keys() <= CHART[path], path
            for name, item in part.items():
                check(item, f"{path}.{name}".lstrip("."))

    check(values, "")
    assert used == CHART.keys()
    assert values["runLauncher"]["type"] == "K8sRunLauncher"


def test_run_launcher_and_pods_take_what_the_chart_makes_of_the_values():
    values = _loaded("values.yaml")
    given = values["runLauncher"]["config"]["k8sRunLauncher"]
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    launcher = {
        "instance_config_map": "dagster-instance",
        "service_account_name": "dagster",
        "image_pull_policy": given["imagePullPolicy"],
        "resources": given["resources"],
        "fail_pod_on_run_failure": given["failPodOnRunFailure"],
    }
    assert process_config(K8sRunLauncher.config_type(), launcher).success
    # what the code location hands to the pods of its runs and steps
    context = K8sContainerContext.create_from_config(
        {
            "k8s": {
                "image_pull_policy": deployment["image"]["pullPolicy"],
                "env_secrets": [secret["name"] for secret in deployment["envSecrets"]],
                "env": [{"name": name, "value": value} for name, value in deployment["env"].items()],
            }
        }
    )
    container = context.run_k8s_config.container_config
    assert {"secret_ref": {"name": "metaflow"}} in container["env_from"]
    assert deployment["env"].items() == {(entry["name"], entry["value"]) for entry in container["env"]}
    server = _check_command(["dagster", "code-server", "start", *deployment["codeServerArgs"]])
    assert server["python_file"] == "/opt/dagster/definitions.py"
    # no secret is written into the values
    assert not [name for name in deployment["env"] if re.search("KEY|SECRET|TOKEN|PASSWORD", name)]


def test_code_location_has_all_flows_of_its_folder(project, monkeypatch, tmp_path):
    flows: Project = project("one_step.py", "printing.py")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("FLOWS_FOLDER", str(empty))
    assert _code_location().resolve_all_job_defs() == []
    for flow in ("one_step.py", "printing.py"):
        flows.metaflow(flow, "dagster", "create")
    monkeypatch.setenv("FLOWS_FOLDER", str(flows.folder))
    jobs = {job.name for job in _code_location().resolve_all_job_defs() if not job.name.startswith("__")}
    assert len(jobs) == 2
    assert "PrintingFlow" in jobs


def _code_location() -> dg.Definitions:
    file = DEPLOY / "definitions.py"
    namespace: dict[str, Any] = {"__name__": "code_location", "__file__": str(file)}
    exec(compile(file.read_bytes(), file, "exec", dont_inherit=True), namespace)
    return namespace["defs"]
