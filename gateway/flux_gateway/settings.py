"""What the gateway is told at start-up, from the environment. Read once, at the edge; nothing else looks there."""

# The settings do not use `pydantic-settings`: it ignores a misspelt FLUX_GATEWAY_ variable even with `extra="forbid"`
# (2.16), and such a variable must stop the start. Its ValidationError would have to be translated into CannotStart with
# the variable's name and range, and it needs `python-dotenv` for `.env` files, which the gateway does not read.

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

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
#: OpenTelemetry's own.
ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
#: Upper bounds of settings: bytes and pixels, and other numbers.
_MOST_BYTES, _MOST = 2**50, 1_000_000
#: A host name, or a dot and a domain for all of its subdomains.
_HOST = re.compile(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.IGNORECASE | re.ASCII)
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Settings:
    """Each field is the variable of its name, such as FLUX_GATEWAY_TRITON."""

    #: host:port of Triton's gRPC; or several with commas between, or a name that stands for several.
    triton: str = "localhost:8001"
    #: Where the gateway itself listens.
    host: str = "127.0.0.1"
    port: int = 12411
    #: Seconds that one generation may take.
    timeout_s: float = 600.0
    #: Seconds that running requests have when the gateway is asked to end.
    exit_timeout_s: int = 30
    #: Generating requests at once, and those of one caller; more are refused with 503 and 429.
    concurrency: int = 64
    concurrency_per_caller: int = 32
    #: Bytes of a request's body, and seconds within which it must arrive.
    body_bytes: int = 64 * 2**20
    body_timeout_s: float = 60.0
    #: Bytes of memory for bodies and answers of the requests in flight, and for those of one caller.
    in_flight_bytes: int = 2 * 2**30
    in_flight_bytes_per_caller: int = 2**30
    #: Open connections, and those of one address.
    connections: int = 1024
    connections_per_caller: int = 256
    #: Pixels of one image asked for.
    pixels: int = 2048 * 2048
    #: Folder of LoRA adapters, to list them; without it, FLUX_LORA_PATH.
    loras: Path | None = None
    #: Entry point of the content filter; none: there is no filter.
    content_filter: str = ""
    #: Where spans go, by OTLP over HTTP; without it, what OTEL_EXPORTER_OTLP_ENDPOINT says; none: there are no spans.
    traces_url: str = ""
    #: JSON file of API keys, as `flux-gateway key` prints them; none: everyone may come.
    keys_file: Path | None = None
    #: Whether `/metrics` is answered without a key.
    metrics_open: bool = False
    #: Origins, beside the gateway's own, whose pages may ask, such as https://app.example, with commas between; `*` is
    #: all, `null` that of a local file.
    origins: str = ""
    #: Names, beside addresses and localhost, that the Host header may have, with commas between; `*` is all.
    hosts: str = ""
    #: Addresses and networks of reverse proxies whose X-Forwarded-For, -Proto and -Host count, with commas between.
    trusted_proxies: str = ""
    #: What URLs in answers begin with, such as https://flux.example; without it, what the request's headers say.
    public_url: str = ""

    #: Seconds for which a result is kept: an ended job, or an image that is given by its URL.
    result_s: float = 600.0
    #: Results that are kept or in the making, and those of one caller; more are refused with 503 and 429.
    results: int = 1024
    results_per_caller: int = 256
    #: Bytes of these results, and of those of one caller.
    result_bytes: int = 512 * 2**20
    result_bytes_per_caller: int = 128 * 2**20

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
        """Raises CannotStart: a value is no such number, or a variable is unknown."""
        given = {
            name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if name.startswith(PREFIX)
        }
        if (folder := environment.get(LORA_VARIABLE)) and "loras" not in given and Path(folder).expanduser().is_dir():
            # Otherwise the path belongs to the machine that Triton runs on.
            given["loras"] = folder
        if endpoint := environment.get(ENDPOINT_VARIABLE):
            given.setdefault("traces_url", f"{endpoint.rstrip('/')}/v1/traces")
        types = {field.name: str(field.type) for field in fields(cls)}
        if unknown := sorted(set(given) - set(types)):
            names = ", ".join(PREFIX + name.upper() for name in types)
            raise CannotStart(f"{PREFIX}{unknown[0].upper()} is unknown, expected one of: {names}")
        settings = cls(**{name: _value(name, types[name], text) for name, text in given.items() if text})
        settings.check()
        return settings

    def check(self) -> None:
        """Raises CannotStart: a value cannot be used."""
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
    """Of items with commas between."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _check_host(host: str) -> None:
    if not (host == "*" or _HOST.fullmatch(host) or is_address(host.strip("[]"))):
        raise ValueError(f"{host!r}, expected names without scheme and port: flux.example, .example.com, or *")


def _most(name: str) -> float:
    """The largest value of a number."""
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
