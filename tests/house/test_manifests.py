"""deploy/: everything renders and matches the schemas of Kubernetes and of the custom resources."""

from __future__ import annotations

import copy
import os
import re
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from manifests import CUSTOM, DEPLOY, OVERLAYS, RENDERINGS, Document, kubectl, named, of_kind, pods, rendered

pytestmark = pytest.mark.slow

#: The oldest version with all fields in use, one in between, and the newest version with schemas.
KUBERNETES = ("1.30", "1.33", "1.37")


def own_kinds(documents: list[Document]) -> list[Document]:
    """Return the objects of Kubernetes' own kinds. Kubernetes types in custom resources are wrapped in such objects."""
    found = [document for document in documents if document["kind"] not in CUSTOM]
    for pod in pods(documents):
        if pod.owner.startswith("InferenceService"):
            found.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": pod.spec})
    for scaled in of_kind(documents, "ScaledObject"):
        target = {"apiVersion": "apps/v1", "kind": "Deployment", **scaled["spec"]["scaleTargetRef"]}
        found.append(
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "of-keda"},
                "spec": {
                    "scaleTargetRef": target,
                    "minReplicas": scaled["spec"]["minReplicaCount"],
                    "maxReplicas": scaled["spec"]["maxReplicaCount"],
                    "behavior": scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
                },
            }
        )
    return found


def decode(documents: list[Document]) -> subprocess.CompletedProcess[str]:
    """Decode into Go types with a kubectl command that only reads files. Go has a separate type for quantities."""
    return kubectl("set", "env", "--local", "-f", "-", "X=1", "-o", "name", text=yaml.safe_dump_all(documents))


@pytest.mark.parametrize("name", RENDERINGS)
def test_overlay_renders(name: str) -> None:
    assert rendered(name)


def test_overlays_are_the_documented_ones() -> None:
    assert OVERLAYS == ["cpu-demo", "gpu-1", "gpu-1-baked", "gpu-2", "kserve"]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", RENDERINGS)
def test_every_object_matches_the_kubernetes_schema(name: str, version: str) -> None:
    for document in own_kinds(rendered(name)):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
def test_schema_check_finds_an_unknown_field(version: str) -> None:
    deployment = copy.deepcopy(named(rendered("gpu-1"), "Deployment", "flux-triton"))
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["periodSecond"] = 15
    with pytest.raises(kubernetes_validate.ValidationError, match="periodSecond"):
        kubernetes_validate.validate(deployment, version, strict=True)


@pytest.mark.parametrize("name", RENDERINGS)
def test_every_object_decodes_into_its_go_type(name: str) -> None:
    documents = own_kinds(rendered(name))
    done = decode(documents)
    assert "unable to decode" not in done.stderr
    # For an object without a pod, kubectl only reports its type, which shows that it was decoded.
    made = {line.split("/")[0].split(".")[0] for line in done.stdout.splitlines()}
    passed_by = {line.rpartition("*v")[2].partition(".")[2] for line in done.stderr.splitlines() if "*v" in line}
    assert {kind.lower() for kind in passed_by} | made == {document["kind"].lower() for document in documents}


@pytest.mark.parametrize(
    ("kind", "path", "bad"),
    [
        ("Deployment", "spec.template.spec.containers.0.resources.limits.memory", "92Gx"),
        ("Deployment", "spec.template.spec.volumes.0.emptyDir.sizeLimit", "forty"),
        ("PersistentVolumeClaim", "spec.resources.requests.storage", "60 Gi"),
        ("HorizontalPodAutoscaler", "spec.metrics.0.pods.target.averageValue", "16k384"),
        ("NetworkPolicy", "spec.ingress", "none"),
    ],
)
def test_decoding_finds_an_invalid_value(kind: str, path: str, bad: str) -> None:
    documents = copy.deepcopy(rendered("gpu-2 with hpa"))
    found: Any = next(d for d in of_kind(documents, kind) if d["metadata"]["name"].startswith("flux-"))
    *way, last = path.split(".")
    for step in way:
        found = found[int(step) if step.isdecimal() else step]
    found[last] = bad
    done = decode(documents)
    assert done.returncode == 1
    assert "unable to decode" in done.stderr


#: For each custom resource, the fields in use that its definition has. Dots separate levels, `*` stands for the items
#: of a list, and fields below `...` are checked elsewhere. Source: the Go types of KServe and KEDA, and the reference
#: of the Prometheus operator.
FIELDS = {
    "ServingRuntime": {
        "containers...",
        "labels...",
        "multiModel",
        "protocolVersions.*",
        "supportedModelFormats.*.name",
        "supportedModelFormats.*.version",
        "volumes...",
    },
    "InferenceService": {
        "predictor.affinity...",
        "predictor.automountServiceAccountToken",
        "predictor.deploymentStrategy...",
        "predictor.enableServiceLinks",
        "predictor.maxReplicas",
        "predictor.minReplicas",
        "predictor.model.modelFormat.name",
        "predictor.model.protocolVersion",
        "predictor.model.runtime",
        "predictor.model.storageUri",
        "predictor.securityContext...",
        "predictor.serviceAccountName",
        "predictor.terminationGracePeriodSeconds",
        "predictor.tolerations...",
        "predictor.topologySpreadConstraints...",
    },
    "ScaledObject": {
        "advanced.horizontalPodAutoscalerConfig.behavior...",
        "fallback.behavior",
        "fallback.failureThreshold",
        "fallback.replicas",
        "maxReplicaCount",
        "minReplicaCount",
        "pollingInterval",
        "scaleTargetRef.name",
        "triggers.*.metadata.ignoreNullValues",
        "triggers.*.metadata.query",
        "triggers.*.metadata.serverAddress",
        "triggers.*.metadata.threshold",
        "triggers.*.metricType",
        "triggers.*.type",
    },
    "ServiceMonitor": {
        "endpoints.*.interval",
        "endpoints.*.path",
        "endpoints.*.port",
        "endpoints.*.relabelings.*.replacement",
        "endpoints.*.relabelings.*.sourceLabels.*",
        "endpoints.*.relabelings.*.targetLabel",
        "selector.matchLabels...",
    },
}


def fields_of(value: Any, known: set[str], path: str = "") -> set[str]:
    if f"{path}..." in known:
        return {f"{path}..."}
    if isinstance(value, dict):
        below = [(f"{path}.{key}".lstrip("."), inner) for key, inner in value.items()]
    elif isinstance(value, list):
        below = [(f"{path}.*", inner) for inner in value]
    else:
        return {path}
    return set[str]().union(*(fields_of(inner, known, way) for way, inner in below))


@pytest.mark.parametrize("kind", FIELDS)
def test_custom_resources_use_only_known_fields(kind: str) -> None:
    documents = [document for name in RENDERINGS for document in of_kind(rendered(name), kind)]
    assert documents
    for document in documents:
        assert fields_of(document["spec"], FIELDS[kind]) <= FIELDS[kind]


def test_inference_service_matches_its_runtime() -> None:
    documents = rendered("kserve")
    (service,) = of_kind(documents, "InferenceService")
    (runtime,) = of_kind(documents, "ServingRuntime")
    model = service["spec"]["predictor"]["model"]
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert runtime["apiVersion"] == "serving.kserve.io/v1alpha1"
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"]["name"] in {known["name"] for known in runtime["spec"]["supportedModelFormats"]}
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    # The first port becomes port 80, with the protocol that the service requests.
    assert container["ports"][0]["name"] == "http"
    assert runtime["spec"]["protocolVersions"] == ["v2", "grpc-v2"]


def test_documented_overlay_renders_and_sets_every_image(tmp_path_factory: pytest.TempPathFactory) -> None:
    text = (DEPLOY.parent / "docs" / "kubernetes.md").read_text()
    (written,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "Kustomization" in block]
    # In the folder of our overlays, because Kustomize does not accept absolute paths.
    folder = tmp_path_factory.mktemp("overlay").resolve()
    ours = os.path.relpath(DEPLOY / "overlays", folder)
    (folder / "kustomization.yaml").write_text(written.replace("[../", f"[{ours}/"))
    done = kubectl("kustomize", folder)
    assert done.returncode == 0, done.stderr
    documents = list(yaml.safe_load_all(done.stdout))
    images = {container["image"] for pod in pods(documents) for container in pod.containers()}
    assert images == {"registry.example/flux-triton:1.0"}
    assert of_kind(documents, "ScaledObject")
    (claim,) = of_kind(documents, "PersistentVolumeClaim")
    assert claim["spec"]["storageClassName"] == "shared-files"


@pytest.mark.parametrize("name", OVERLAYS)
def test_each_image_can_be_set_alone(name: str) -> None:
    """The image of an existing Job cannot change, so it must stay independent of the others."""
    expected = {"triton": "flux-triton", "gateway": "flux-gateway", "weights": "flux-weights"}
    for pod in pods(rendered(name)):
        for container in pod.containers():
            image, _, tag = container["image"].partition(":")
            assert image == expected[pod.component]
            assert tag in {"cpu", "gpu", "gpu-baked"}
