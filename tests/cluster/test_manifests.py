"""The manifests under cluster/manifests: their form, their versions, and that nothing in them is open to the world or holds a secret.

KubeRay's own schemas are in no package registry, so the models here are typed after its API reference (v1, KubeRay 1.6): the fields that
are used, every other one refused. Ray's own schema judges the file of `ray up`, bash the script, and Compose's rules are modelled too.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from ruamel.yaml import YAML

from cluster.planted import secret_in_text

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "cluster" / "manifests"
PINS = dict(
    line.split(";")[0].strip().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if re.match(r"[a-z]", line)
)
Quantity = str


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SecretKey(Strict):
    name: str
    key: str
    optional: bool = False


class ValueFrom(Strict):
    secretKeyRef: SecretKey


class Variable(Strict):
    name: str
    value: str | None = None
    valueFrom: ValueFrom | None = None


class Port(Strict):
    containerPort: int
    name: str | None = None


class Resources(Strict):
    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}


class Mount(Strict):
    name: str
    mountPath: str


class Container(Strict):
    name: str
    image: str
    command: list[str] = []
    args: list[str] = []
    env: list[Variable] = []
    ports: list[Port] = []
    resources: Resources
    volumeMounts: list[Mount] = []


class Claim(Strict):
    claimName: str


class EmptyDir(Strict):
    medium: Literal["Memory"]
    sizeLimit: Quantity


class Volume(Strict):
    name: str
    persistentVolumeClaim: Claim | None = None
    emptyDir: EmptyDir | None = None


class Toleration(Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"]


class Security(Strict):
    fsGroup: int
    fsGroupChangePolicy: Literal["OnRootMismatch", "Always"]


class Pod(Strict):
    securityContext: Security | None = None
    containers: list[Container] = Field(min_length=1)
    restartPolicy: Literal["Never", "Always"] = "Always"
    nodeSelector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    volumes: list[Volume] = []


class PodTemplate(Strict):
    metadata: dict[str, dict[str, str]] = {}
    spec: Pod


class HeadGroup(Strict):
    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(HeadGroup):
    groupName: str
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)
    maxReplicas: int = Field(ge=1)


class AuthOptions(Strict):
    mode: Literal["disabled", "token"]


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"]
    upscalingMode: Literal["Default", "Aggressive", "Conservative"]
    idleTimeoutSeconds: int


class RayClusterSpec(Strict):
    rayVersion: str
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool
    autoscalerOptions: AutoscalerOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] = Field(min_length=1)


class RayJobSpec(Strict):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]
    backoffLimit: int = Field(ge=0)
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int = Field(ge=0)
    rayClusterSpec: RayClusterSpec


class ComposeService(Strict):
    image: str
    build: dict[str, str] = {}
    command: str | None = None
    environment: dict[str, str] = {}
    ports: list[str] = []
    volumes: list[str] = []
    depends_on: list[str] = []
    deploy: dict[str, int] = {}
    restart: Literal["unless-stopped"]
    shm_size: str | None = None


def documents(name: str) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all(MANIFESTS / name))


def ray_cluster(name: str) -> RayClusterSpec:
    [document] = documents(name)
    assert document["apiVersion"] == "ray.io/v1" and re.fullmatch(r"[a-z][a-z0-9-]{0,62}", document["metadata"]["name"])
    if document["kind"] == "RayJob":
        return RayJobSpec.model_validate(document["spec"]).rayClusterSpec
    assert document["kind"] == "RayCluster"
    return RayClusterSpec.model_validate(document["spec"])


def compose() -> dict[str, ComposeService]:
    [document] = documents("compose.yaml")
    return TypeAdapter(dict[str, ComposeService]).validate_python(document["services"])


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_a_ray_cluster_has_the_fields_of_kuberay_with_tokens_autoscaling_and_gpus(name: str) -> None:
    spec = ray_cluster(name)
    assert spec.authOptions.mode == "token" and spec.enableInTreeAutoscaling and spec.rayVersion == PINS["ray"]
    assert spec.headGroupSpec.rayStartParams["num-cpus"] == "0", "trials stay off the head, where the driver is"
    for group in spec.workerGroupSpecs:
        assert group.minReplicas <= group.replicas <= group.maxReplicas
        [container] = group.template.spec.containers
        assert container.resources.limits["nvidia.com/gpu"] == container.resources.requests["nvidia.com/gpu"]
    assert any(group.minReplicas for group in spec.workerGroupSpecs), (
        "a study without autoscale counts the nodes that are up when it begins"
    )


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_every_pod_of_ray_mounts_the_shared_storage_that_is_claimed(name: str) -> None:
    [claim] = documents("storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    spec = ray_cluster(name)
    for group in (spec.headGroupSpec, *spec.workerGroupSpecs):
        pod = group.template.spec
        volumes = {volume.name: volume for volume in pod.volumes}
        mounts = {mount.mountPath: volumes[mount.name] for container in pod.containers for mount in container.volumeMounts}
        claimed = mounts["/shared"].persistentVolumeClaim
        assert claimed is not None and claimed.claimName == claim["metadata"]["name"]


def users(*images: str) -> set[int]:
    """The user ids that images run as."""
    found = set()
    for image in images:
        text = (MANIFESTS / image).read_text()
        last = re.findall(r"^USER (\w+)$", text, re.M)[-1]
        found |= {int(uid) for uid, name in re.findall(r"useradd .*--uid (\d+) (\w+)", text) if name == last}
    return found


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_the_user_of_the_images_may_write_what_pods_mount(name: str) -> None:
    spec = ray_cluster(name)
    groups = [group.template.spec.securityContext for group in (spec.headGroupSpec, *spec.workerGroupSpecs)]
    assert all(groups) and {group.fsGroup for group in groups if group} == users("Dockerfile.cpu", "Dockerfile.gpu")
    # a volume full of checkpoints is not walked through each time that a pod starts
    assert {group.fsGroupChangePolicy for group in groups if group} == {"OnRootMismatch"}


def test_the_user_of_the_image_may_write_on_a_new_efs_and_every_node_sees_soon_what_another_wrote() -> None:
    [config] = documents("ray_up_aws.yaml")
    assert config["docker"]["image"].endswith("-gpu")
    [user] = users("Dockerfile.gpu")
    commands = config["initialization_commands"]
    [mount] = [i for i, command in enumerate(commands) if "mount -t nfs4" in command]
    [given] = [i for i, command in enumerate(commands) if f"install -d -o {user} -g {user} /shared/studies" in command]
    assert mount < given
    options = set(re.search(r" -o (\S+) ", commands[mount])[1].split(","))  # type: ignore[index]
    assert {"hard", "lookupcache=positive", "acdirmin=1", "acdirmax=1"} <= options
    assert commands[mount].endswith(".amazonaws.com:/ /shared") and "\n" not in commands[mount]


def test_mlflow_keeps_its_password_in_a_secret_and_is_open_to_ray_alone() -> None:
    found = documents("mlflow.yaml")
    pods = [PodTemplate.model_validate(d["spec"]["template"]).spec for d in found if d["kind"] == "Deployment"]
    for container in (container for pod in pods for container in pod.containers):
        for variable in container.env:
            secret = any(word in variable.name for word in ("PASSWORD", "SECRET", "ACCESS_KEY"))
            assert not secret or (variable.value is None and variable.valueFrom is not None), variable.name
    guarded = {d["spec"]["podSelector"]["matchLabels"]["app"] for d in found if d["kind"] == "NetworkPolicy"}
    assert guarded == {d["metadata"]["name"] for d in found if d["kind"] == "Deployment"}
    assert all(d["spec"].get("type", "ClusterIP") == "ClusterIP" for d in found if d["kind"] == "Service")


def test_the_parts_of_the_compose_file_fit_together() -> None:
    [document] = documents("compose.yaml")
    services = compose()
    for name, service in services.items():
        assert set(service.depends_on) <= set(services), name
        assert {volume.split(":")[0] for volume in service.volumes} <= set(document["volumes"]), name
        if "dockerfile" in service.build:
            assert (MANIFESTS / service.build["context"] / service.build["dockerfile"]).is_file()


def test_the_compose_file_publishes_on_loopback_only_and_every_ray_node_wants_the_token() -> None:
    for name, service in compose().items():
        assert all(port.startswith("127.0.0.1:") for port in service.ports), name
        if "ray start" in (service.command or ""):
            assert service.environment["RAY_AUTH_MODE"] == "token" and service.environment["RAY_AUTH_TOKEN"].startswith(
                "${RAY_AUTH_TOKEN:?"
            )


@pytest.mark.slow
def test_ray_itself_takes_the_file_of_ray_up() -> None:
    import jsonschema
    import ray.autoscaler
    from ray.autoscaler._private.util import validate_config

    [config] = documents("ray_up_aws.yaml")
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    validate_config(config)
    head = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head and "RAY_AUTH_MODE=token" in head


def test_the_slurm_script_parses_and_keeps_token_and_dashboard_to_itself() -> None:
    script = MANIFESTS / "slurm.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0 and script.stat().st_mode & 0o111
    text = script.read_text()
    assert "umask 077" in text and "--dashboard-host 127.0.0.1" in text and "RAY_AUTH_MODE=token" in text


@pytest.mark.parametrize("path", sorted(MANIFESTS.iterdir()), ids=lambda path: path.name)
def test_a_manifest_names_the_versions_of_constraints_txt_and_holds_no_secret(path: Path) -> None:
    text = path.read_text()
    assert secret_in_text(path) is None
    named = re.findall(r"\b(torch|ray|mlflow|optuna)(?:==|[:-]v?)(\d+\.\d+\.\d+)", text) + [
        ("ray", v) for v in re.findall(r"rayVersion: (\S+)", text)
    ]
    assert [(name, version) for name, version in named if PINS[name] != version] == []
    own = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert own is not None
    assert set(re.findall(r"phasetune:(\d+\.\d+\.\d+)", text)) <= {own[1]}


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu", "Dockerfile.mlflow"])
def test_an_image_is_built_with_the_pins_and_does_not_run_as_root(name: str) -> None:
    lines = (MANIFESTS / name).read_text().splitlines()
    assert any("-c constraints.txt" in line for line in lines) and [line for line in lines if line.startswith("USER ")][-1] != "USER root"
    for line in lines:
        if line.startswith("COPY "):
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line
