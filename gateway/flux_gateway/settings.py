"""Settings of the gateway, read once from environment variables when it starts."""

# This does not use `pydantic-settings`: it ignores a misspelt FLUX_GATEWAY_ variable even with `extra="forbid"` (2.16),
# and the gateway must not start with one. Its ValidationError would have to be translated into CannotStart with the
# variable's name and range, and it depends on `python-dotenv` for `.env` files, which the gateway does not read.

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from flux_client.retry import MAX_TIMEOUT_S
from flux_contract import limits
from flux_contract.environment import LORA_VARIABLE, shown
from flux_contract.errors import CannotStart
from flux_gateway.bodies import COPIES
from flux_gateway.generation_service import ANSWER_BYTES_PER_PIXEL
from flux_gateway.hosts import is_address, parsed_origin
from flux_gateway.proxies import Networks
from flux_gateway.results import ResultLimits

PREFIX = "FLUX_GATEWAY_"
#: OpenTelemetry's variable.
ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
#: Maximum of settings in bytes or pixels, and of all other numbers.
_MOST_BYTES, _MOST = 2**50, 1_000_000
#: A host name, or a dot and a domain for all of its subdomains.
_HOST = re.compile(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.IGNORECASE | re.ASCII)
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


_Default = TypeVar("_Default")


def _setting(default: _Default, meaning: str) -> _Default:
    """A field with a default. meaning: for `flux-gateway --help`."""
    declared: _Default = field(default=default, metadata={"help": meaning})
    return declared


@dataclass(frozen=True)
class Settings:
    """Settings of the gateway. Each field is read from the variable of its name, such as FLUX_GATEWAY_TRITON."""

    triton: str = _setting(
        "localhost:8001",
        "host:port of Triton's gRPC endpoint; several separated by commas, or a name with several addresses.",
    )
    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(12411, "Port to listen on.")
    timeout_s: float = _setting(600.0, "Seconds for one generation.")
    exit_timeout_s: int = _setting(30, "Seconds for running requests to finish when the gateway stops.")
    concurrency: int = _setting(64, "Maximum concurrent generation requests. Further requests are rejected with 503.")
    concurrency_per_caller: int = _setting(
        32,
        "Maximum concurrent generation requests of one caller. Further requests are rejected with 429.",
    )
    body_bytes: int = _setting(64 * 2**20, "Maximum bytes of a request body.")
    body_timeout_s: float = _setting(60.0, "Seconds for a request body to arrive.")
    in_flight_bytes: int = _setting(
        2 * 2**30,
        "Bytes of memory for the bodies and responses of all requests in flight.",
    )
    in_flight_bytes_per_caller: int = _setting(
        2**30,
        "Bytes of memory for the bodies and responses of one caller's requests in flight.",
    )
    connections: int = _setting(1024, "Maximum open connections.")
    connections_per_caller: int = _setting(256, "Maximum open connections of one address.")
    pixels: int = _setting(2048 * 2048, "Maximum pixels of a generated image.")
    loras: Path | None = _setting(  # noqa: RUF009
        None,
        "Folder whose LoRA adapters `GET /loras` lists; if unset, FLUX_LORA_PATH if it is a folder on this machine.",
    )
    content_filter: str = _setting("", "Entry point of the content filter; if unset, images are not filtered.")
    traces_url: str = _setting(
        "",
        "OTLP/HTTP URL for spans; if unset, derived from OTEL_EXPORTER_OTLP_ENDPOINT; without both, spans are "
        "disabled.",
    )
    keys_file: Path | None = _setting(  # noqa: RUF009
        None,
        "JSON list of API keys, as `flux-gateway key` prints them; if unset, no key is required.",
    )
    metrics_open: bool = _setting(False, "Whether `/metrics` is served without a key.")
    origins: str = _setting(
        "",
        "Origins whose pages may call the API, besides the gateway's own, such as https://app.example, separated "
        "by commas; `*` allows all, `null` allows local files.",
    )
    hosts: str = _setting(
        "",
        "Host header names to accept, besides addresses and localhost, separated by commas; `*` accepts all.",
    )
    trusted_proxies: str = _setting(
        "",
        "Addresses and networks of reverse proxies whose X-Forwarded-For, -Proto and -Host headers are trusted, "
        "separated by commas.",
    )
    public_url: str = _setting(
        "",
        "Base of URLs in responses, such as https://flux.example; if unset, taken from the request's headers.",
    )
    result_s: float = _setting(600.0, "Seconds to keep a finished job, or an image that was returned as a URL.")
    results: int = _setting(
        1024,
        "Maximum jobs and URL images, running or kept. Further requests are rejected with 503.",
    )
    results_per_caller: int = _setting(
        256,
        "Maximum jobs and URL images of one caller. Further requests are rejected with 429.",
    )
    result_bytes: int = _setting(512 * 2**20, "Bytes for all jobs and URL images.")
    result_bytes_per_caller: int = _setting(128 * 2**20, "Bytes for the jobs and URL images of one caller.")

    @property
    def result_limits(self) -> ResultLimits:
        return ResultLimits(
            count=self.results,
            count_per_caller=self.results_per_caller,
            bytes=self.result_bytes,
            bytes_per_caller=self.result_bytes_per_caller,
            seconds=self.result_s,
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings. Raises CannotStart: a value is invalid, or a variable is unknown."""
        given = {
            name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if name.startswith(PREFIX)
        }
        if (folder := environment.get(LORA_VARIABLE)) and "loras" not in given and Path(folder).expanduser().is_dir():
            # If it is not a folder here, it is a path on Triton's machine.
            given["loras"] = folder
        if endpoint := environment.get(ENDPOINT_VARIABLE):
            given.setdefault("traces_url", f"{endpoint.rstrip('/')}/v1/traces")
        types = {each.name: str(each.type) for each in fields(cls)}
        if unknown := sorted(set(given) - set(types)):
            names = ", ".join(PREFIX + name.upper() for name in types)
            raise CannotStart(f"{PREFIX}{unknown[0].upper()} is unknown, expected one of: {names}")
        settings = cls(**{name: _value(name, types[name], text) for name, text in given.items() if text})
        settings.check()
        return settings

    def check(self) -> None:
        """Check values that need more than their type. Raises CannotStart: a value is invalid."""
        try:
            for name, parse in (("public_url", parsed_origin), ("trusted_proxies", Networks)):
                if text := getattr(self, name):
                    parse(text)
            name = "hosts"
            for host in listed(self.hosts):
                _check_host(host)
            name = "origins"
            for origin in listed(self.origins):
                if origin not in ("*", "null"):
                    parsed_origin(origin)
        except ValueError as error:
            raise CannotStart(f"{PREFIX}{name.upper()}={getattr(self, name)!r}: {error}") from error
        if self.loras is not None and not self.loras.expanduser().is_dir():
            raise CannotStart(f"{PREFIX}LORAS={shown(self.loras)!r}, expected a folder")
        largest = COPIES * self.body_bytes + ANSWER_BYTES_PER_PIXEL * limits.MAX_IMAGES * self.pixels
        for name in ("in_flight_bytes_per_caller", "in_flight_bytes"):
            if getattr(self, name) < largest:
                raise CannotStart(
                    f"{PREFIX}{name.upper()}={getattr(self, name)}, expected at least {largest}: the largest request "
                    f"that {PREFIX}BODY_BYTES and {PREFIX}PIXELS allow"
                )


def listed(text: str) -> list[str]:
    """Split a comma-separated list."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _check_host(host: str) -> None:
    if not (host == "*" or _HOST.fullmatch(host) or is_address(host.strip("[]"))):
        raise ValueError(f"{host!r}, expected a name without scheme and port: flux.example, .example.com or *")


def _most(name: str) -> float:
    """Return the maximum of a numeric setting."""
    if name == "port":
        return 65_535
    if name.endswith("_s"):
        return MAX_TIMEOUT_S
    return _MOST_BYTES if "bytes" in name or name == "pixels" else _MOST


def _value(name: str, kind: str, text: str) -> Any:
    if kind.startswith("Path"):
        return Path(text).expanduser()
    if kind == "bool":
        if text.lower() not in _BOOLEANS:
            raise CannotStart(f"{PREFIX}{name.upper()}={text!r}, expected true or false")
        return _BOOLEANS[text.lower()]
    if kind not in ("int", "float"):
        return text
    try:
        value = (int if kind == "int" else float)(text)
    except ValueError:
        value = 0
    most = _most(name)
    if not 0 < value <= most:
        what = "an integer" if kind == "int" else "a number"
        raise CannotStart(f"{PREFIX}{name.upper()}={text[:80]!r}, expected {what} above 0 and at most {most:.16g}")
    return value
