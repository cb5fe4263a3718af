"""deploy/ and docs/kubernetes.md: numbers in comments and text equal those of flux_tools.sizing and the manifests."""

from __future__ import annotations

import math
import re

import pytest

from flux_gateway.settings import Settings
from flux_tools.sizing.__main__ import lines
from flux_tools.sizing.ending import longest_image_seconds, pre_stop_seconds
from flux_tools.sizing.gateway import gateway_memory_gibibytes
from flux_tools.sizing.load import target_tokens
from flux_tools.sizing.shared_memory import BY_CONTRACT, BY_GATEWAY, shared_memory_gibibytes
from manifests import DEPLOY, Document, named, of_kind, rendered, triton_pods

pytestmark = pytest.mark.slow

DOCUMENT = DEPLOY.parent / "docs" / "kubernetes.md"


def words(path: str) -> str:
    """Return the comments of a manifest, or the whole document, as one line."""
    if path == "docs":
        return " ".join(DOCUMENT.read_text().split())
    found = [line.strip() for line in (DEPLOY / path).read_text().splitlines() if line.strip().startswith("#")]
    return " ".join(line.lstrip("# ") for line in found)


def probe() -> Document:
    (pod,) = triton_pods(rendered("gpu-1"))
    liveness: Document = pod.container()["livenessProbe"]
    return liveness


def grace() -> int:
    (pod,) = triton_pods(rendered("gpu-1"))
    seconds: int = pod.spec["terminationGracePeriodSeconds"]
    return seconds


LONGEST = f"{longest_image_seconds():.0f} s"
DETECTION = probe()["periodSeconds"] * probe()["failureThreshold"] + probe()["timeoutSeconds"]
GATEWAYS = re.search(r"gateway allows: (\d+ s)", "\n".join(lines()))
ROUND = re.search(r"(\d) images of 1024x1024, one step of each in ([\d.]+ s)", "\n".join(lines()))
assert GATEWAYS
assert ROUND


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("base/gateway/deployment.yaml", f"{gateway_memory_gibibytes(Settings())} GiB, whatever callers send"),
        ("base/triton/deployment.yaml", LONGEST),
        ("base/triton/deployment.yaml", f"{grace()} s at most"),
        ("base/triton/deployment.yaml", f"the {grace()} s of a live one"),
        ("base/triton/deployment.yaml", f"{DETECTION} s at most until the kubelet knows"),
        ("base/triton/deployment.yaml", f"{shared_memory_gibibytes(1, BY_CONTRACT)} GiB"),
        ("components/hpa/autoscaler.yaml", f"{target_tokens()} are two full steps"),
        ("components/hpa/autoscaler.yaml", f"each every {ROUND[2]}"),
        ("components/hpa/autoscaler.yaml", f"({GATEWAYS[1]})"),
        ("overlays/gpu-2/gpus.yaml", f"{shared_memory_gibibytes(2, BY_CONTRACT)} of /dev/shm"),
        ("docs", LONGEST),
        ("docs", f"{grace()} s"),
        ("docs", f"{pre_stop_seconds()} s"),
        ("docs", f"{DETECTION} s"),
        ("docs", f"{shared_memory_gibibytes(1, BY_CONTRACT)} GiB"),
        ("docs", f"{shared_memory_gibibytes(2, BY_CONTRACT)} GiB"),
        ("docs", f"{shared_memory_gibibytes(0, BY_GATEWAY)} GiB"),
        ("docs", f"{target_tokens()}"),
        ("docs", ROUND[2]),
        ("docs", GATEWAYS[1]),
    ],
)
def test_text_has_the_computed_number(path: str, number: str) -> None:
    assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", words(path)), f"{path} does not say {number}"


def test_autoscaler_uses_the_computed_target() -> None:
    (hpa,) = of_kind(rendered("gpu-2 with hpa"), "HorizontalPodAutoscaler")
    (metric,) = hpa["spec"]["metrics"]
    assert int(metric["pods"]["target"]["averageValue"]) == target_tokens()
    # The autoscaler removes no server while it generates the longest image of the gateway.
    assert hpa["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] > float(GATEWAYS[1].split()[0])


def test_pre_stop_is_the_sum_in_its_comment() -> None:
    text = words("base/triton/deployment.yaml")
    name, age = re.search(r"cached for (\d+) s.* for up to (\d+) s", text).groups()  # type: ignore[union-attr]
    assert int(name) + int(age) == pre_stop_seconds()
    (pod,) = triton_pods(rendered("gpu-1"))
    assert f"{pod.container()['lifecycle']['preStop']['exec']['command'][1]} s of preStop" in text


def test_comment_and_document_have_the_same_size_of_weights() -> None:
    from test_manifests_pods import weights_of_flux

    assert f"{math.ceil(weights_of_flux() / 2**30)} of weights" in words("components/gpu/gpu.yaml")


def test_kserve_has_the_settings_of_the_other_overlays() -> None:
    """KServe's kinds repeat the settings of the Deployment."""
    (ours,) = triton_pods(rendered("gpu-1"))
    (kserves,) = triton_pods(rendered("kserve"))
    same = ("terminationGracePeriodSeconds", "affinity", "tolerations", "topologySpreadConstraints", "securityContext")
    for field in (*same, "serviceAccountName", "automountServiceAccountToken", "enableServiceLinks"):
        assert ours.spec[field] == kserves.spec[field], field
    container = kserves.container()
    for field in (
        "command",
        "args",
        "image",
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
        "lifecycle",
        "resources",
    ):
        expected = ours.container()[field]
        given = container[field]
        if field == "resources":
            expected, given = ({k: {n: str(v) for n, v in e.items()} for k, e in r.items()} for r in (expected, given))
        assert given == expected, field
    for volume in ("tmp", "shared-memory"):
        assert ours.volume(volume) == kserves.volume(volume)
    deployment = named(rendered("gpu-1"), "Deployment", "flux-triton")
    (service,) = of_kind(rendered("kserve"), "InferenceService")
    strategy = service["spec"]["predictor"]["deploymentStrategy"]
    assert strategy["rollingUpdate"] == deployment["spec"]["strategy"]["rollingUpdate"]
    assert service["spec"]["predictor"]["minReplicas"] == deployment["spec"]["replicas"]
