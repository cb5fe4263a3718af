"""deploy/: everything renders, and is what Kubernetes and those who bring kinds of their own would take."""

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

#: The oldest that has all fields we use, one between, and the newest that there are schemas of.
KUBERNETES = ("1.30", "1.33", "1.37")


def own_kinds(documents: list[Document]) -> list[Document]:
    """Of Kubernetes itself; what other kinds have of it in a place of their own is put into objects of its kinds."""
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
    """Into Go's types, by a command of kubectl that touches files alone; a quantity has a type of its own there."""
    return kubectl("set", "env", "--local", "-f", "-", "X=1", "-o", "name", text=yaml.safe_dump_all(documents))


@pytest.mark.parametrize("name", RENDERINGS)
def test_it_renders(name: str) -> None:
    assert rendered(name)


def test_the_overlays_are_those_of_the_documents() -> None:
    assert OVERLAYS == ["cpu-demo", "gpu-1", "gpu-1-baked", "gpu-2", "kserve"]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", RENDERINGS)
def test_every_object_is_one_of_kubernetes(name: str, version: str) -> None:
    for document in own_kinds(rendered(name)):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
def test_an_unknown_field_is_found(version: str) -> None:
    deployment = copy.deepcopy(named(rendered("gpu-1"), "Deployment", "flux-triton"))
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["periodSecond"] = 15
    with pytest.raises(kubernetes_validate.ValidationError, match="periodSecond"):
        kubernetes_validate.validate(deployment, version, strict=True)


@pytest.mark.parametrize("name", RENDERINGS)
def test_every_object_decodes_into_its_type(name: str) -> None:
    documents = own_kinds(rendered(name))
    done = decode(documents)
    assert "unable to decode" not in done.stderr
    # Of what has no pod it says only that, by its type; so each was decoded.
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
def test_a_planted_mistake_is_found(kind: str, path: str, bad: str) -> None:
    documents = copy.deepcopy(rendered("gpu-2 with hpa"))
    found: Any = next(d for d in of_kind(documents, kind) if d["metadata"]["name"].startswith("flux-"))
    *way, last = path.split(".")
    for step in way:
        found = found[int(step) if step.isdecimal() else step]
    found[last] = bad
    done = decode(documents)
    assert done.returncode == 1
    assert "unable to decode" in done.stderr


#: Of each kind that is not Kubernetes' own, the fields that we use and that its definition has; dots lead inwards, `*`
#: is all of a list, and where `...` ends a field, what is below it is checked elsewhere. Read in KServe's and KEDA's Go
#: types and the operator's reference.
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
def test_other_kinds_have_fields_that_they_know(kind: str) -> None:
    documents = [document for name in RENDERINGS for document in of_kind(rendered(name), kind)]
    assert documents
    for document in documents:
        assert fields_of(document["spec"], FIELDS[kind]) <= FIELDS[kind]


def test_kserve_accepts_what_the_service_asks_of_the_runtime() -> None:
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
    # The first port becomes port 80, by the protocol that the service asks for.
    assert container["ports"][0]["name"] == "http"
    assert runtime["spec"]["protocolVersions"] == ["v2", "grpc-v2"]


def test_the_overlay_of_the_document_renders_and_names_every_image(tmp_path_factory: pytest.TempPathFactory) -> None:
    text = (DEPLOY.parent / "docs" / "kubernetes.md").read_text()
    (written,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "Kustomization" in block]
    # Beside ours: Kustomize takes no absolute paths.
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
def test_each_image_can_be_named_alone(name: str) -> None:
    """The Job's above all: one that has run bears no other."""
    expected = {"triton": "flux-triton", "gateway": "flux-gateway", "weights": "flux-weights"}
    for pod in pods(rendered(name)):
        for container in pod.containers():
            image, _, tag = container["image"].partition(":")
            assert image == expected[pod.component]
            assert tag in {"cpu", "gpu", "gpu-baked"}
