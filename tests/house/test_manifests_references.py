"""deploy/: references between objects are valid."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from manifests import DEPLOY, DIVIDED, FLEETS, UNDIVIDED, Document, Pod, named, of_kind, pods, rendered

pytestmark = pytest.mark.slow


def matches(selector: Document, labels: dict[str, str]) -> bool:
    """selector: matchLabels and matchExpressions with the operator In."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    assert all(rule["operator"] == "In" for rule in selector.get("matchExpressions", ()))
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", ())
    )


def selected(documents: list[Document], selector: Document) -> list[Pod]:
    return [pod for pod in pods(documents) if matches(selector, pod.labels)]


def ports_of(pod: Pod) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"] for container in pod.containers() for port in container.get("ports", ())
    }


@pytest.mark.parametrize("name", FLEETS)
def test_service_selects_pods_of_one_kind_and_their_ports(name: str) -> None:
    documents = rendered(name)
    services = of_kind(documents, "Service")
    names = {service["metadata"]["name"] for service in services}
    assert names == {"flux-gateway"} if name in UNDIVIDED else names >= {"flux-gateway", "flux-triton-headless"}
    for service in services:
        (pod,) = selected(documents, {"matchLabels": service["spec"]["selector"]})
        for port in service["spec"]["ports"]:
            assert ports_of(pod)[port["targetPort"]] == port["port"], service["metadata"]["name"]
            assert port["appProtocol"] == ("kubernetes.io/h2c" if port["name"] == "grpc" else "http")


@pytest.mark.parametrize("name", DIVIDED)
def test_headless_service_lists_only_ready_pods(name: str) -> None:
    service = named(rendered(name), "Service", "flux-triton-headless")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is False


@pytest.mark.parametrize("name", DIVIDED)
def test_gateway_uses_an_existing_service(name: str) -> None:
    documents = rendered(name)
    (gateway,) = [pod for pod in pods(documents) if pod.component == "gateway"]
    environment = {variable["name"]: variable["value"] for variable in gateway.container()["env"]}
    host, _, port = environment["FLUX_GATEWAY_TRITON"].partition(":")
    service = named(documents, "Service", host)
    assert int(port) in {entry["port"] for entry in service["spec"]["ports"] if entry["name"] == "grpc"}
    assert service["metadata"]["namespace"] == gateway_namespace(documents)


def gateway_namespace(documents: list[Document]) -> str:
    namespace: str = named(documents, "Deployment", "flux-gateway")["metadata"]["namespace"]
    return namespace


@pytest.mark.parametrize("name", FLEETS)
def test_every_object_is_in_the_created_namespace(name: str) -> None:
    documents = rendered(name)
    (namespace,) = of_kind(documents, "Namespace")
    for document in documents:
        if document is not namespace:
            assert document["metadata"]["namespace"] == namespace["metadata"]["name"], document["metadata"]["name"]


@pytest.mark.parametrize("name", FLEETS)
def test_deployment_selects_its_own_pods(name: str) -> None:
    documents = rendered(name)
    for deployment in of_kind(documents, "Deployment"):
        (pod,) = selected(documents, deployment["spec"]["selector"])
        assert pod.owner == f"Deployment {deployment['metadata']['name']}"


@pytest.mark.parametrize("name", FLEETS)
def test_budgets_and_policies_select_pods(name: str) -> None:
    documents = rendered(name)
    for budget in of_kind(documents, "PodDisruptionBudget"):
        assert len(selected(documents, budget["spec"]["selector"])) == 1, budget["metadata"]["name"]
    for policy in of_kind(documents, "NetworkPolicy"):
        assert selected(documents, policy["spec"]["podSelector"]), policy["metadata"]["name"]


@pytest.mark.parametrize("name", FLEETS)
def test_every_pod_has_policies_for_both_directions_and_every_server_a_budget(name: str) -> None:
    documents = rendered(name)
    for pod in pods(documents):
        policies = [
            p["spec"] for p in of_kind(documents, "NetworkPolicy") if matches(p["spec"]["podSelector"], pod.labels)
        ]
        assert {way for policy in policies for way in policy["policyTypes"]} == {"Ingress", "Egress"}, pod.owner
        budgets = [b for b in of_kind(documents, "PodDisruptionBudget") if matches(b["spec"]["selector"], pod.labels)]
        assert len(budgets) == (0 if pod.component == "weights" else 1), pod.owner


@pytest.mark.parametrize("name", DIVIDED)
def test_policies_allow_the_gateway_to_reach_the_servers_and_dns(name: str) -> None:
    documents = rendered(name)
    by_component = {pod.component: pod for pod in pods(documents)}
    (to_triton,) = [
        rule for rule in rules(documents, "flux-gateway", "egress") if any("podSelector" in peer for peer in rule["to"])
    ]
    (peer,) = to_triton["to"]
    assert matches(peer["podSelector"], by_component["triton"].labels)
    assert [port["port"] for port in to_triton["ports"]] == ["grpc"]
    from_gateway = next(rules(documents, "flux-triton", "ingress"))
    assert any(matches(p.get("podSelector", {}), by_component["gateway"].labels) for p in from_gateway["from"])
    assert {port["port"] for port in from_gateway["ports"]} == {"http", "grpc"}
    asked = [
        port for rule in rules(documents, "flux-gateway", "egress") for port in rule["ports"] if port["port"] == 53
    ]
    assert {port["protocol"] for port in asked} == {"UDP", "TCP"}


def rules(documents: list[Document], policy: str, way: str) -> Iterator[Document]:
    yield from named(documents, "NetworkPolicy", policy)["spec"][way]


@pytest.mark.parametrize("name", FLEETS)
def test_policies_use_existing_ports(name: str) -> None:
    """A rule with a port name that no container has would allow no connection."""
    documents = rendered(name)
    for policy in of_kind(documents, "NetworkPolicy"):
        for pod in selected(documents, policy["spec"]["podSelector"]):
            for rule in policy["spec"].get("ingress", ()):
                for port in rule.get("ports", ()):
                    assert port["port"] in ports_of(pod), policy["metadata"]["name"]


@pytest.mark.parametrize("name", DIVIDED)
def test_policies_allow_prometheus_to_scrape(name: str) -> None:
    (rule,) = [rule for rule in rules(rendered(name), "flux-triton", "ingress") if {"port": "metrics"} in rule["ports"]]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


@pytest.mark.parametrize("name", [name for name in DIVIDED if not name.startswith("kserve")])
def test_each_monitor_selects_one_service(name: str) -> None:
    """KServe's own Service has the labels of its runtime and a port of that name (source: KServe's code)."""
    services = of_kind(rendered(name), "Service")
    for monitor in of_kind(rendered("monitoring"), "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        found = [
            service["metadata"]["name"]
            for service in services
            if matches(monitor["spec"]["selector"], service["metadata"]["labels"])
            and endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        ]
        assert found == [{"flux-triton": "flux-triton-headless"}.get(monitor["metadata"]["name"], "flux-gateway")]


@pytest.mark.parametrize("name", UNDIVIDED)
def test_only_the_gateway_is_reachable_if_triton_is_on_loopback(name: str) -> None:
    """The CPU image's Triton has published remote vulnerabilities."""
    documents = rendered(name)
    (pod,) = pods(documents)
    assert ports_of(pod) == {"rest": 12411}
    (rule,) = rules(documents, "flux-triton", "ingress")
    assert rule == {"ports": [{"port": "rest"}]}
    (service,) = of_kind(documents, "Service")
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["rest"]
    # Prometheus discovers the gateway as in the other overlays.
    (monitor,) = [m for m in of_kind(rendered("monitoring"), "ServiceMonitor") if "gateway" in m["metadata"]["name"]]
    assert matches(monitor["spec"]["selector"], service["metadata"]["labels"])
    for probe in ("startupProbe", "readinessProbe"):
        assert pod.container()[probe]["httpGet"] == {"path": "/health", "port": "rest"}


def test_metrics_of_kserve_pods_are_scraped_once() -> None:
    for service in of_kind(rendered("kserve"), "Service"):
        assert "metrics" not in {port["name"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize("name", FLEETS)
def test_every_volume_is_mounted_and_every_mount_has_a_volume(name: str) -> None:
    for pod in pods(rendered(name)):
        mounted = {mount["name"] for container in pod.containers() for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod.spec["volumes"]}, pod.owner


#: Objects that the user creates (docs/kubernetes.md).
YOURS = {("Secret", "flux-gateway-keys"), ("Secret", "huggingface")}


@pytest.mark.parametrize("name", FLEETS)
def test_claims_accounts_and_secrets_exist_or_come_from_the_user(name: str) -> None:
    documents = rendered(name)
    there = {(document["kind"], document["metadata"]["name"]) for document in documents}
    needed = set()
    for pod in pods(documents):
        needed.add(("ServiceAccount", pod.spec["serviceAccountName"]))
        for volume in pod.spec["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                needed.add(("PersistentVolumeClaim", claim["claimName"]))
            if secret := volume.get("secret"):
                needed.add(("Secret", secret["secretName"]))
        for container in pod.containers():
            for variable in container.get("env", ()):
                if "valueFrom" in variable:
                    needed.add(("Secret", variable["valueFrom"]["secretKeyRef"]["name"]))
    assert needed - there <= YOURS
    text = (DEPLOY.parent / "docs" / "kubernetes.md").read_text()
    assert all(f"secret generic {secret}" in text for _, secret in needed - there)
    # No unused account or claim exists.
    assert {entry for entry in there if entry[0] in {"ServiceAccount", "PersistentVolumeClaim"}} <= needed


@pytest.mark.parametrize(
    ("name", "kind"), [("gpu-2 with hpa", "HorizontalPodAutoscaler"), ("gpu-2 with keda", "ScaledObject")]
)
def test_autoscaled_deployment_sets_no_replicas(name: str, kind: str) -> None:
    documents = rendered(name)
    (scaler,) = of_kind(documents, kind)
    deployment = named(documents, "Deployment", scaler["spec"]["scaleTargetRef"]["name"])
    assert "replicas" not in deployment["spec"]


def test_both_autoscalers_have_the_same_target() -> None:
    (hpa,) = of_kind(rendered("gpu-2 with hpa"), "HorizontalPodAutoscaler")
    (keda,) = of_kind(rendered("gpu-2 with keda"), "ScaledObject")
    (metric,) = hpa["spec"]["metrics"]
    (trigger,) = keda["spec"]["triggers"]
    assert metric["pods"]["target"]["averageValue"] == trigger["metadata"]["threshold"]
    assert hpa["spec"]["behavior"] == keda["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert (hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]) == (
        keda["spec"]["minReplicaCount"],
        keda["spec"]["maxReplicaCount"],
    )
