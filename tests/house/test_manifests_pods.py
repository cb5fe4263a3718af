"""deploy/: security, arguments, memory and shutdown of the pods."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flux_gateway.app import make_app
from flux_gateway.cross_origin import AllowedHosts
from flux_gateway.settings import Settings, listed
from flux_serving.launch.__main__ import read_options
from flux_serving.launch.exposure import check_exposure
from flux_serving.settings import Checkpoints
from flux_tools.sizing.ending import grace_period_seconds, longest_image_seconds, pre_stop_seconds
from flux_tools.sizing.gateway import gateway_memory_bytes, gateway_tmp_bytes
from flux_tools.sizing.shared_memory import BY_CONTRACT, BY_GATEWAY, shared_memory_bytes
from manifests import DIVIDED, FLEETS, UNDIVIDED, Document, Pod, named, of_kind, pods, quantity, rendered, triton_pods

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
#: Kinds of volumes in use that the pod security standard `restricted` allows.
RESTRICTED_VOLUMES = {"emptyDir", "persistentVolumeClaim", "secret"}


def all_pods() -> Iterator[tuple[str, Pod]]:
    yield from ((name, pod) for name in FLEETS for pod in pods(rendered(name)))


@pytest.mark.parametrize(("name", "pod"), [pytest.param(n, p, id=f"{n}, {p.owner}") for n, p in all_pods()])
def test_pod_is_restricted_and_has_no_token(name: str, pod: Pod) -> None:
    """Every control of https://kubernetes.io/docs/concepts/security/pod-security-standards, and a read-only root."""
    spec = pod.spec
    for field in ("hostNetwork", "hostPID", "hostIPC", "hostUsers"):
        assert field not in spec
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 1000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"sysctls", "windowsOptions", "appArmorProfile", "seLinuxOptions"} & set(spec["securityContext"])
    for container in pod.containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container.get("ports", ()))
    for volume in spec["volumes"]:
        assert (set(volume) - {"name"}) <= RESTRICTED_VOLUMES
    assert spec["automountServiceAccountToken"] is False
    account = named(rendered(name), "ServiceAccount", spec["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False
    # The gateway would read a Service's variables as its settings.
    assert spec["enableServiceLinks"] is False


@pytest.mark.parametrize(("name", "pod"), [pytest.param(n, p, id=f"{n}, {p.owner}") for n, p in all_pods()])
def test_pod_has_requests_limits_and_writable_folders(name: str, pod: Pod) -> None:
    for container in pod.containers():
        wanted, most = container["resources"]["requests"], container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(wanted)
        assert quantity(wanted["memory"]) <= quantity(most["memory"])
        # A CPU limit would throttle the container even if the node is idle.
        assert "cpu" not in most
        assert wanted.get("nvidia.com/gpu") == most.get("nvidia.com/gpu")
    (container,) = pod.spec["containers"]
    assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"name": "HOME", "value": "/tmp"} in container["env"]


@pytest.mark.parametrize("name", FLEETS)
def test_namespace_enforces_the_restricted_standard(name: str) -> None:
    (namespace,) = of_kind(rendered(name), "Namespace")
    labels = namespace["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "warn", "audit")} == {"restricted"}


@pytest.mark.parametrize("name", FLEETS)
def test_probes_use_existing_ports(name: str) -> None:
    for pod in pods(rendered(name)):
        if pod.component == "weights":
            continue
        container = pod.container()
        ports = {port["name"] for port in container["ports"]}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[kind]
            assert probe["httpGet"]["port"] in ports if "httpGet" in probe else probe["exec"]["command"]


def test_gateway_answers_its_probes() -> None:
    (pod,) = [pod for pod in pods(rendered("gpu-1")) if pod.component == "gateway"]
    asked = {kind: pod.container()[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert set(asked.values()) <= set(make_app(Settings()).openapi()["paths"])
    # Only the startup probe depends on a server.
    assert asked == {"startup": "/health", "readiness": "/", "liveness": "/"}


def grace_of(pod: Pod) -> int:
    seconds: int = pod.spec["terminationGracePeriodSeconds"]
    return seconds


def pre_stop_of(pod: Pod) -> int:
    command, seconds = pod.container()["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    return int(seconds)


def option(pod: Pod, name: str) -> str:
    (value,) = [given.partition("=")[2] for given in pod.container()["args"] if given.startswith(f"--{name}=")]
    return value


@pytest.mark.parametrize("name", FLEETS)
def test_grace_period_of_a_server_covers_its_longest_images(name: str) -> None:
    (pod,) = triton_pods(rendered(name))
    exit_timeout = int(option(pod, "exit-timeout"))
    assert pre_stop_of(pod) >= pre_stop_seconds()
    assert exit_timeout >= longest_image_seconds()
    assert grace_of(pod) >= grace_period_seconds(pre_stop_of(pod), exit_timeout)


@pytest.mark.parametrize("name", FLEETS)
def test_dead_server_has_a_short_grace_period(name: str) -> None:
    (pod,) = triton_pods(rendered(name))
    for kind in ("startupProbe", "livenessProbe"):
        assert pod.container()[kind]["terminationGracePeriodSeconds"] <= 15


@pytest.mark.parametrize("name", [name for name in FLEETS if name != "kserve"])
def test_progress_deadline_covers_a_stopping_and_a_loading_server(name: str) -> None:
    documents = rendered(name)
    deployment = named(documents, "Deployment", "flux-triton")
    (pod,) = triton_pods(documents)
    probe = pod.container()["startupProbe"]
    loading = probe["periodSeconds"] * probe["failureThreshold"]
    assert loading >= 1800
    assert deployment["spec"]["progressDeadlineSeconds"] >= grace_of(pod) + loading


@pytest.mark.parametrize("name", DIVIDED)
def test_grace_period_of_a_gateway_covers_a_generation(name: str) -> None:
    (pod,) = [pod for pod in pods(rendered(name)) if pod.component == "gateway"]
    settings = Settings.from_environment(environment_of(pod))
    assert settings.exit_timeout_s >= settings.timeout_s
    assert grace_of(pod) > pre_stop_of(pod) + settings.exit_timeout_s


def environment_of(pod: Pod) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in pod.container()["env"] if "value" in variable}


@pytest.mark.parametrize("name", DIVIDED)
def test_gateway_accepts_its_settings(name: str) -> None:
    """An unknown variable raises CannotStart."""
    (pod,) = [pod for pod in pods(rendered(name)) if pod.component == "gateway"]
    settings = Settings.from_environment(environment_of(pod))
    assert pod.container()["command"] == ["python3", "-m", "flux_gateway"]
    assert settings.host == "0.0.0.0"
    assert settings.port == pod.container()["ports"][0]["containerPort"]
    assert bool(settings.keys_file) == ("keys" in {volume["name"] for volume in pod.spec["volumes"]})
    if settings.keys_file:
        mounts = {mount["name"]: mount["mountPath"] for mount in pod.container()["volumeMounts"]}
        assert str(settings.keys_file.parent) == mounts["keys"]


@pytest.mark.parametrize("name", DIVIDED)
def test_memory_limit_of_the_gateway_covers_its_maximum(name: str) -> None:
    (pod,) = [pod for pod in pods(rendered(name)) if pod.component == "gateway"]
    settings = Settings.from_environment(environment_of(pod))
    memory = quantity(pod.container()["resources"]["limits"]["memory"])
    assert gateway_memory_bytes(settings) <= memory < gateway_memory_bytes(settings) + 2**30
    assert quantity(pod.volume("tmp")["emptyDir"]["sizeLimit"]) == gateway_tmp_bytes()


def test_gateway_without_keys_accepts_every_name_of_its_service() -> None:
    documents = rendered("cpu-demo")
    (pod,) = triton_pods(documents)
    settings = replace(Settings.from_environment(environment_of(pod)), host="0.0.0.0")
    (service,) = [service for service in of_kind(documents, "Service") if "gateway" in service["metadata"]["name"]]
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    allowed = AllowedHosts(settings.host, listed(settings.hosts))
    for suffix in ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local"):
        assert allowed.allows(f"{name}{suffix}:{settings.port}"), suffix
    # The kubelet uses the pod's address.
    assert allowed.allows(f"10.0.0.7:{settings.port}")
    assert not allowed.allows("evil.example")


@pytest.mark.parametrize("name", FLEETS)
def test_launcher_accepts_its_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (pod,) = triton_pods(rendered(name))
    monkeypatch.setattr(sys, "argv", ["launch", *pod.container()["args"]])
    options = read_options()
    ports = {port["name"]: port["containerPort"] for port in pod.container()["ports"]}
    if name in UNDIVIDED:
        assert (options.triton_host, options.gateway_host) == ("127.0.0.1", "0.0.0.0")
        assert ports == {"rest": options.gateway_port}
    else:
        assert (options.triton_host, options.gateway_port) == ("0.0.0.0", None)
        assert ports == {"http": options.http_port, "grpc": options.grpc_port, "metrics": options.metrics_port}
    # No flag opens a restricted API or exposes a vulnerable Triton.
    assert (options.allow_api, options.expose_vulnerable_triton) == ([], False)
    gpus = pod.container()["resources"]["limits"].get("nvidia.com/gpu", 0)
    assert {"cpu": 0, "k8s": 1, "gpu": len(options.gpus or ())}[options.profile] == int(gpus)
    # The pod numbers its GPUs from 0.
    assert options.gpus in (None, tuple(range(int(gpus))))


@pytest.mark.parametrize("name", DIVIDED)
def test_triton_reachable_from_other_pods_has_no_known_vulnerabilities(name: str) -> None:
    """The image `gpu` uses NVIDIA's Triton in the version that the Dockerfile names."""
    (pod,) = triton_pods(rendered(name))
    assert pod.container()["image"].rpartition(":")[2].startswith("gpu")
    (base,) = re.findall(r"^ARG GPU_BASE=\S+:(\d+\.\d+)-py3$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    check_exposure("0.0.0.0", base, is_accepted=False)


@pytest.mark.parametrize("name", UNDIVIDED)
def test_server_with_a_gateway_has_memory_for_both(name: str) -> None:
    (pod,) = triton_pods(rendered(name))
    settings = Settings.from_environment(environment_of(pod))
    assert settings.keys_file is None
    gateway = gateway_memory_bytes(settings)
    shared_memory = quantity(pod.volume("shared-memory")["emptyDir"]["sizeLimit"])
    assert quantity(pod.container()["resources"]["limits"]["memory"]) >= 2e9 + shared_memory + gateway


@pytest.mark.parametrize("name", FLEETS)
def test_checkpoint_paths_are_in_a_volume_or_the_image(name: str) -> None:
    (pod,) = triton_pods(rendered(name))
    checkpoints = Checkpoints.from_environment(environment_of(pod))
    mounts = {mount["mountPath"] for mount in pod.container()["volumeMounts"]}
    if name.startswith("cpu-demo"):
        assert checkpoints.base.is_relative_to("/opt/flux-triton/checkpoints/demo")
    elif name == "gpu-1-baked":
        assert checkpoints.base.is_relative_to("/models")
        assert not any(checkpoints.base.is_relative_to(mount) for mount in mounts)
    else:
        assert str(checkpoints.base.parent) in mounts
        assert checkpoints.base.parent == checkpoints.redux.parent


def test_job_writes_the_folders_that_the_servers_read() -> None:
    documents = rendered("gpu-1")
    (job,) = [pod for pod in pods(documents) if pod.component == "weights"]
    (server,) = triton_pods(documents)
    (script,) = job.container()["args"]
    written = set(re.findall(r"--local-dir (\S+)", script))
    read = Checkpoints.from_environment(environment_of(server))
    assert written == {str(read.base), str(read.redux)}
    (waiting,) = server.spec["initContainers"]
    (done,) = re.findall(r"touch (\S+)", script)
    assert f"-e {done} " in waiting["command"][-1]
    # An interrupted download does not create the file.
    assert script.index(f"rm -f {done}") < script.index("hf download") < script.index(f"touch {done}")
    assert job.container()["command"] == ["sh", "-ec"]


@pytest.mark.parametrize("name", FLEETS)
def test_restarted_container_clears_dev_shm_and_keeps_its_arguments(name: str, tmp_path: Path) -> None:
    """Runs the pod's command with another folder for /dev/shm and a python3 that records its arguments."""
    (pod,) = triton_pods(rendered(name))
    shell, flag, script, *rest = pod.container()["command"]
    assert (shell, flag) == ("sh", "-c")
    left, others = tmp_path / "flux-triton-1234_region", tmp_path / "something"
    left.write_text("left by one that was killed")
    others.write_text("not ours")
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    python.chmod(0o755)
    command = [shell, flag, script.replace("/dev/shm", str(tmp_path)), *rest, *pod.container()["args"]]
    environment = {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == ["-m", "flux_serving.launch", *pod.container()["args"]]
    assert not left.exists()
    assert others.exists()


def shared_memory(pod: Pod) -> float:
    mounts = {mount["mountPath"]: mount["name"] for mount in pod.container()["volumeMounts"]}
    folder: Document = pod.volume(mounts["/dev/shm"])["emptyDir"]
    assert folder["medium"] == "Memory"
    return quantity(folder["sizeLimit"])


@pytest.mark.parametrize("name", FLEETS)
def test_dev_shm_holds_the_largest_requests_within_the_memory_limit(name: str) -> None:
    (pod,) = triton_pods(rendered(name))
    gpus = int(pod.container()["resources"]["limits"].get("nvidia.com/gpu", 0))
    # In the demo, all requests pass the gateway, whose limits are lower.
    largest = BY_CONTRACT if gpus else BY_GATEWAY
    assert shared_memory(pod) >= shared_memory_bytes(gpus, largest)
    assert shared_memory(pod) < shared_memory_bytes(gpus, largest) + 2**30
    resources = pod.container()["resources"]
    processes = quantity(resources["requests"]["memory"])
    assert quantity(resources["limits"]["memory"]) >= shared_memory(pod) + processes
    assert processes >= max(1, gpus) * (weights_of_flux() if gpus else 2e9)


def weights_of_flux() -> float:
    """Return the bytes of FLUX.1-dev's weights for all modes, images and prompts, from docs/memory.md."""
    text = (ROOT / "docs" / "memory.md").read_text()
    rows = re.findall(r"^\| (?:every mode|image guidance|prompts|img2img)\b.*\| ([\d.]+) GB \|$", text, re.MULTILINE)
    assert len(rows) == 4
    return sum(map(float, rows)) * 1e9


@pytest.mark.parametrize("name", FLEETS)
def test_servers_are_spread_over_nodes_and_zones(name: str) -> None:
    (pod,) = triton_pods(rendered(name))
    spread = pod.spec["topologySpreadConstraints"]
    assert [rule["topologyKey"] for rule in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for rule in spread:
        assert rule["labelSelector"]["matchLabels"].items() <= pod.labels.items()


@pytest.mark.parametrize("name", [name for name in FLEETS if not name.startswith("cpu-demo")])
def test_servers_require_nodes_whose_gpu_holds_the_weights(name: str) -> None:
    (pod,) = triton_pods(rendered(name))
    (term,) = pod.spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    (memory,) = [rule for rule in term["matchExpressions"] if rule["key"] == "nvidia.com/gpu.memory"]
    (mebibytes,) = memory["values"]
    assert int(mebibytes) * 2**20 > weights_of_flux()
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod.spec["tolerations"]
