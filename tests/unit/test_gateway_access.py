"""Access to the gateway: keys, origins, hosts and proxies; and the contents of its log and metrics."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest

from asking import Endless, running
from flux_client import AsyncFluxClient
from flux_client.fake import AsyncFakeTransport
from flux_contract.errors import CannotStart
from flux_gateway.app import make_app
from flux_gateway.cross_origin import AllowedHosts
from flux_gateway.keys import new_key
from flux_gateway.settings import Settings

TEXT = {"mode": "text2img", "prompt": "red apple", "num_inference_steps": 4}
Asked = tuple[str, str, dict[str, Any]]


def ask_all(settings: Settings, *requests: Asked, peer: str = "127.0.0.1") -> list[httpx.Response]:
    """Send requests to one gateway, in order. Each is (method, path, further arguments of httpx)."""

    async def asked() -> list[httpx.Response]:
        async with running(settings, peer) as http:
            return [await http.request(method, path, **how) for method, path, how in requests]

    return asyncio.run(asked())


def generate(**headers: str) -> Asked:
    return "POST", "/generate", {"json": TEXT, "headers": {name.replace("_", "-"): v for name, v in headers.items()}}


def statuses(settings: Settings, *requests: Asked, **how: Any) -> list[int]:
    return [response.status_code for response in ask_all(settings, *requests, **how)]


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, Path]:
    key, kept = new_key("ann")
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([kept]))
    return key, file


def routes_of(settings: Settings) -> list[tuple[str, str]]:
    app = make_app(settings, AsyncFluxClient(transport=AsyncFakeTransport()))
    paths = app.openapi()["paths"]
    described = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    return [*described, ("GET", "/docs"), ("GET", "/docs/swagger-ui-bundle.js"), ("GET", "/openapi.json")]


@pytest.mark.slow
def test_with_keys_every_endpoint_requires_one_unless_it_reveals_nothing(keys: tuple[str, Path]) -> None:
    key, file = keys
    settings = Settings(keys_file=file)
    routes = routes_of(settings)
    assert {"/loras", "/models", "/status", "/metrics", "/openapi.json", "/docs"} <= {path for _, path in routes}
    without = statuses(settings, *((method, path, {}) for method, path in routes))
    needing = {path for (_, path), status in zip(routes, without, strict=True) if status == 401}
    assert needing == {path for _, path in routes} - {"/", "/health"}
    known = {"headers": {"X-API-Key": key}}
    assert 401 not in statuses(settings, *((method, path, known) for method, path in routes))
    # An unknown path reveals nothing, either. The files of the page need no key.
    others = ("GET", "/nothing", {}), ("POST", "/health", {}), ("GET", "/page/main.js", {}), ("OPTIONS", "/loras", {})
    assert statuses(settings, *others) == [401, 401, 200, 401]


def test_a_setting_serves_metrics_without_a_key(keys: tuple[str, Path]) -> None:
    asked: Asked = ("GET", "/metrics", {})
    assert statuses(Settings(keys_file=keys[1]), asked) == [401]
    assert statuses(Settings(keys_file=keys[1], metrics_open=True), asked) == [200]
    assert statuses(Settings(), asked) == [200]
    assert Settings.from_environment({"FLUX_GATEWAY_METRICS_OPEN": "true"}).metrics_open
    with pytest.raises(CannotStart, match="METRICS_OPEN"):
        Settings.from_environment({"FLUX_GATEWAY_METRICS_OPEN": "maybe"})


def test_a_browser_opens_the_documentation_with_the_key_as_its_password(keys: tuple[str, Path]) -> None:
    key, file = keys
    basic = {"headers": {"Authorization": "Basic " + base64.b64encode(f"any:{key}".encode()).decode()}}
    wrong = {"headers": {"Authorization": "Basic " + base64.b64encode(b"any:no").decode()}}
    answers = ask_all(
        Settings(keys_file=file),
        *(("GET", "/docs", how) for how in ({}, wrong, {"headers": {"Authorization": "Basic ä".encode()}}, basic)),
        ("GET", "/openapi.json", basic),
        ("GET", "/models", basic),
    )
    assert [answer.status_code for answer in answers] == [401, 401, 401, 200, 200, 401]
    assert answers[0].headers["www-authenticate"].startswith("Basic ")
    # Otherwise, a browser would ask for a password on the page.
    assert answers[-1].headers["www-authenticate"] == "Bearer"
    assert "HTTPBearer" in answers[4].json()["components"]["securitySchemes"]


def test_the_documentation_loads_no_files_from_other_hosts() -> None:
    (docs,) = ask_all(Settings(), ("GET", "/docs", {}))
    loaded = re.findall(r'(?:src|href)="([^"]+)"', docs.text)
    assert loaded
    files = ask_all(Settings(), *(("GET", path, {}) for path in loaded))
    assert {file.status_code for file in files} == {200}
    assert not any(path.startswith(("http", "//")) for path in loaded)
    policy = docs.headers["content-security-policy"]
    assert "script-src 'self' 'sha256-" in policy
    assert "http" not in policy


@pytest.mark.parametrize("path", ["/", "/docs", "/health", "/page/main.js", "/nothing", "/v1/images/files/a"])
def test_every_response_has_security_headers(path: str) -> None:
    (answer,) = ask_all(Settings(), ("GET", path, {"headers": {"Accept": "text/html"}}))
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_pages_of_other_origins_cannot_start_generations() -> None:
    settings = Settings()
    refused = [
        generate(Origin="http://evil.example"),
        generate(Origin="null"),
        generate(Origin="http://localhost:3000"),
        generate(Sec_Fetch_Site="cross-site"),
        generate(Origin="http://app.localhost", Sec_Fetch_Site="same-site"),
        ("POST", "/generate", {"content": json.dumps(TEXT), "headers": {"Origin": "http://evil.example"}}),
        ("POST", "/generate/upload", {"data": TEXT, "headers": {"Origin": "http://evil.example"}}),
        ("POST", "/v1/jobs", {"json": TEXT, "headers": {"Origin": "http://evil.example"}}),
        ("DELETE", "/v1/jobs/a", {"headers": {"Origin": "http://evil.example"}}),
    ]
    answers = ask_all(settings, *refused)
    assert {answer.status_code for answer in answers} == {403}
    assert answers[0].json()["success"] is False
    assert "FLUX_GATEWAY_ORIGINS" in answers[0].json()["error"]
    assert "FLUX_GATEWAY_ORIGINS" in answers[-1].json()["error"]["message"]
    assert not any("access-control-allow-origin" in answer.headers for answer in answers)


def test_own_pages_and_programs_may_call_the_api() -> None:
    asked = [
        generate(),
        generate(Origin="http://localhost"),
        generate(Origin="http://localhost:80", Sec_Fetch_Site="same-origin"),
        generate(Sec_Fetch_Site="none"),
        # Sent by Node's fetch.
        generate(Sec_Fetch_Mode="cors", User_Agent="node"),
        # A proxy terminates TLS, and the gateway does not know the scheme.
        generate(Origin="https://localhost"),
    ]
    assert statuses(Settings(), *asked) == [200] * 6


def test_listed_origins_may_call_the_api_and_read_responses() -> None:
    settings = Settings(origins="https://app.example/, null")
    preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    answers = ask_all(
        settings,
        generate(Origin="https://app.example", Sec_Fetch_Site="cross-site"),
        generate(Origin="null"),
        ("OPTIONS", "/generate", {"headers": preflight}),
        generate(Origin="https://other.example"),
        ("OPTIONS", "/generate", {"headers": preflight | {"Origin": "https://other.example"}}),
    )
    assert [answer.status_code for answer in answers] == [200, 200, 200, 403, 400]
    allowed = [answer.headers.get("access-control-allow-origin") for answer in answers]
    assert allowed == ["https://app.example", "null", "https://app.example", None, None]
    (any_origin,) = ask_all(Settings(origins="*"), generate(Origin="http://evil.example", Sec_Fetch_Site="cross-site"))
    assert (any_origin.status_code, any_origin.headers["access-control-allow-origin"]) == (200, "*")


LOCAL, ANY_ADDRESS = AllowedHosts("127.0.0.1", ()), AllowedHosts("0.0.0.0", ())
NAMED = AllowedHosts("127.0.0.1", ("flux.example", ".svc"))


@pytest.mark.parametrize(
    ("hosts", "host", "is_allowed"),
    [
        (LOCAL, "127.0.0.1:12411", True),
        (LOCAL, "LOCALHOST:12411", True),
        (LOCAL, "[::1]:12411", True),
        (LOCAL, "flux.localhost", True),
        (LOCAL, "evil.example", False),
        (LOCAL, "evil.example:12411", False),
        (LOCAL, "localhost.evil.example", False),
        (LOCAL, "127.0.0.1.evil.example", False),
        (LOCAL, "localhost@evil.example", False),
        (LOCAL, "localhost:x", False),
        (LOCAL, "flux-gateway:12411", False),
        # The kubelet and Prometheus use the pod's address, other clients the Service's name.
        (ANY_ADDRESS, "10.244.1.7:12411", True),
        (ANY_ADDRESS, "flux-gateway:12411", True),
        (ANY_ADDRESS, "flux-gateway.flux-triton.svc", False),
        (ANY_ADDRESS, "evil.example", False),
        (NAMED, "flux-gateway.flux-triton.svc:12411", True),
        (NAMED, "flux.example", True),
        (NAMED, "a.flux.example", False),
        (AllowedHosts("127.0.0.1", ("*",)), "evil.example", True),
    ],
)
def test_allowed_hosts_are_addresses_and_configured_names(hosts: AllowedHosts, host: str, is_allowed: bool) -> None:
    assert hosts.allows(host) is is_allowed


def test_dns_rebinding_is_rejected() -> None:
    def asked(host: str) -> list[Asked]:
        return [
            ("GET", "/health", {"headers": {"Host": host}}),
            ("GET", "/", {"headers": {"Host": host}}),
            generate(Host=host),
        ]

    assert statuses(Settings(), *asked("evil.example:12411")) == [421] * 3
    assert statuses(Settings(), *asked("127.0.0.1:12411")) == [200] * 3
    settings = Settings(public_url="https://flux.example", hosts="other.example")
    assert statuses(settings, *asked("flux.example"), *asked("other.example")) == [200] * 6


def test_with_keys_any_host_is_accepted_unless_some_are_configured(keys: tuple[str, Path]) -> None:
    key, file = keys
    asked = generate(Host="flux.example", X_API_Key=key)
    assert statuses(Settings(keys_file=file), asked) == [200]
    assert statuses(Settings(keys_file=file, hosts="other.example"), asked) == [421]


def test_only_trusted_proxies_set_the_caller_and_the_url(caplog: pytest.LogCaptureFixture) -> None:
    forwarded = {
        "X-Forwarded-For": "6.6.6.6, 192.0.2.7, 10.0.0.2",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "flux.example",
    }
    body = {"prompt": "red apple", "response_format": "url"}
    asked: Asked = ("POST", "/v1/images/generations", {"json": body, "headers": forwarded})
    settings = Settings(trusted_proxies="10.0.0.0/8, 2001:db8::/32", hosts="flux.example")
    for peer, client, url in (
        ("10.0.0.1", "192.0.2.7", "https://flux.example/v1/images/files/"),
        ("2001:db8::1", "192.0.2.7", "https://flux.example/v1/images/files/"),
        ("::ffff:10.0.0.1", "192.0.2.7", "https://flux.example/v1/images/files/"),
        ("192.0.2.9", "192.0.2.9", "http://localhost/v1/images/files/"),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            (answer,) = ask_all(settings, asked, peer=peer)
        assert answer.json()["data"][0]["url"].startswith(url)
        (line,) = log_lines(caplog)
        assert (line["client"], line["caller"]) == (client, client)
    # By default, no proxy is trusted, not even on this machine.
    caplog.clear()
    with caplog.at_level(logging.INFO):
        (answer,) = ask_all(Settings(), asked)
    assert answer.json()["data"][0]["url"].startswith("http://localhost/")
    assert log_lines(caplog)[0]["caller"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("value", "caller"),
    [
        ("192.0.2.7:5678", "192.0.2.7"),
        ("[2001:db8::7]:5678", "2001:db8::/64"),
        ("unknown", "10.0.0.1"),
        ("192.0.2.7, unknown", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("x" * 5000, "10.0.0.1"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
    ],
)
def test_an_invalid_forwarded_address_is_ignored(value: str, caller: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ask_all(Settings(trusted_proxies="10.0.0.0/8"), generate(X_Forwarded_For=value), peer="10.0.0.1")
    assert log_lines(caplog)[0]["caller"] == caller


def test_callers_behind_a_proxy_have_separate_limits() -> None:
    async def asked(settings: Settings) -> list[int]:
        async with running(settings, "10.0.0.1", Endless()) as http:
            names = ("192.0.2.1", "192.0.2.1", "192.0.2.2")
            return [
                (await http.post("/v1/jobs", json=TEXT, headers={"X-Forwarded-For": name})).status_code
                for name in names
            ]

    settings = Settings(concurrency_per_caller=1, trusted_proxies="10.0.0.1")
    assert asyncio.run(asked(settings)) == [202, 429, 202]
    # If the proxy is not trusted, all callers have its address.
    assert asyncio.run(asked(Settings(concurrency_per_caller=1))) == [202, 429, 429]


def test_urls_in_responses_start_with_the_public_url() -> None:
    body = {"prompt": "red apple", "response_format": "url"}
    settings = Settings(public_url="https://flux.example:8443")
    asked: Asked = (
        "POST",
        "/v1/images/generations",
        {"json": body, "headers": {"Origin": "https://flux.example:8443"}},
    )
    (answer,) = ask_all(settings, asked)
    url = answer.json()["data"][0]["url"]
    assert url.startswith("https://flux.example:8443/v1/images/files/")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PUBLIC_URL", "flux.example"),
        ("PUBLIC_URL", "https://flux.example/path"),
        ("PUBLIC_URL", "https://flux.example:x"),
        ("TRUSTED_PROXIES", "proxy.example"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("ORIGINS", "app.example"),
        ("IN_FLIGHT_BYTES", "1000"),
        ("IN_FLIGHT_BYTES_PER_CALLER", "1000"),
    ],
)
def test_an_invalid_access_setting_stops_the_start(name: str, value: str) -> None:
    with pytest.raises(CannotStart, match=f"FLUX_GATEWAY_{name}="):
        Settings.from_environment({f"FLUX_GATEWAY_{name}": value})


def test_the_documentation_names_every_setting() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/rest.md").read_text()
    assert [field.name for field in fields(Settings) if f"`FLUX_GATEWAY_{field.name.upper()}`" not in text] == []


def test_the_log_has_routes_without_names_of_images_or_jobs(caplog: pytest.LogCaptureFixture) -> None:
    name = "secret-name-of-a-image"
    asked: list[Asked] = [
        ("GET", f"/v1/images/files/{name}", {}),
        ("GET", f"/v1/jobs/{name}/events", {}),
        ("DELETE", f"/v1/jobs/{name}", {"headers": {"Origin": "http://evil.example"}}),
        ("GET", f"/page/{name}", {}),
        ("GET", f"/{name}", {}),
        (name.upper(), "/health", {}),
    ]
    with caplog.at_level(logging.INFO, "flux_gateway"):
        ask_all(Settings(), *asked)
    lines = log_lines(caplog)
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GET", "/v1/images/files/{name}", 404),
        ("GET", "/v1/jobs/{job_id}/events", 404),
        ("DELETE", "/v1/jobs/{job_id}", 403),
        ("GET", "/page/{name}", 404),
        ("GET", "other", 404),
        ("other", "/health", 405),
    ]
    told = [record.message for record in caplog.records if record.name.startswith("flux_gateway")]
    assert name not in "".join(told).lower()


def test_requests_do_not_add_metric_labels() -> None:
    """Requests with unknown methods, paths, modes and models do not add label values."""

    async def asked() -> None:
        async with running(Settings()) as http:
            before: set[str] = set()
            for turn in range(2):
                for number in range(5):
                    name = f"n{turn}x{number}"
                    await http.request(name.upper(), "/health")
                    await http.request(name.upper(), f"/{name}")
                    await http.get(f"/{name}")
                    await http.get(f"/v1/jobs/{name}")
                    await http.post(f"/{name}", headers={"Origin": "http://evil.example"})
                    await http.post("/generate", json={"prompt": "a", "mode": name, "model_id": name})
                    await http.post("/generate", content=b"", headers={"content-type": name})
                # The first scrape is counted in the second.
                await http.get("/metrics")
                found = {line.rpartition(" ")[0] for line in (await http.get("/metrics")).text.splitlines()}
                assert turn == 0 or found == before, found - before
                assert not any("n0x" in line.lower() for line in found)
                before = found

    asyncio.run(asked())


def log_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.name == "flux_gateway.access"]
