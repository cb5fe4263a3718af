"""Triton is reachable only from this machine by default, and its administrative APIs are restricted."""

from __future__ import annotations

import re
import sys

import pytest

from flux_contract.errors import CannotStart
from flux_serving.launch.__main__ import read_options
from flux_serving.launch.exposure import RESTRICTED_APIS, check_exposure, is_loopback, restriction_arguments
from flux_serving.launch.variables import unknown_variables


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_addresses_are_recognized(host: str) -> None:
    assert is_loopback(host)
    check_exposure(host, "24.10", False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "name.invalid"])
def test_other_addresses_are_public(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("version", ["24.10", "25.06", "", "main"])
def test_vulnerable_triton_on_public_address_prevents_start(version: str) -> None:
    with pytest.raises(CannotStart) as caught:
        check_exposure("0.0.0.0", version, False)
    for words in ("--triton-host 0.0.0.0", "25.07", "CVE-2025-23319", "--expose-vulnerable-triton", "--gateway-host"):
        assert words in str(caught.value)
    check_exposure("0.0.0.0", version, True)


@pytest.mark.parametrize("version", ["25.07", "25.08", "26.08", "26.11"])
def test_a_newer_triton_may_be_public(version: str) -> None:
    check_exposure("0.0.0.0", version, False)


def test_restricted_apis_have_random_key_at_each_start() -> None:
    first, second = restriction_arguments("", ()), restriction_arguments("", ())
    assert first != second
    http, grpc = first
    rule = re.fullmatch(r"--http-restricted-api=([a-z,-]+):flux-triton-key=([\w-]{43})", http)
    assert rule is not None
    assert tuple(rule[1].split(",")) == RESTRICTED_APIS
    assert grpc == http.replace("--http-restricted-api", "--grpc-restricted-protocol")


def test_api_can_be_allowed_and_key_can_be_set() -> None:
    http, _ = restriction_arguments("a-key-of-the-operators", ("shared-memory", "trace"))
    assert http == "--http-restricted-api=model-repository,logging:flux-triton-key=a-key-of-the-operators"
    assert restriction_arguments("", RESTRICTED_APIS) == []


@pytest.mark.parametrize("key", ["short", "with a space in it somewhere", "with=an-equals-sign", "x" * 16 + "\n"])
def test_invalid_key_prevents_start(key: str) -> None:
    with pytest.raises(CannotStart, match="FLUX_TRITON_KEY: expected 16 or more"):
        restriction_arguments(key, ())


def options(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["serve", *arguments])
    return read_options()


def test_gateway_and_triton_have_separate_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    given = vars(options(monkeypatch, "--gateway-port=12411", "--gateway-host=0.0.0.0"))
    assert (given["gateway_host"], given["triton_host"]) == ("0.0.0.0", "127.0.0.1")
    assert given["expose_vulnerable_triton"] is False


def test_gpus_and_cpu_instances_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given = vars(options(monkeypatch, "--profile=gpu", "--gpus=0,1,2,3"))
    assert (given["gpus"], given["cpu_instances"]) == ((0, 1, 2, 3), None)
    assert vars(options(monkeypatch, "--cpu-instances=2"))["cpu_instances"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host=0.0.0.0"], "unrecognized arguments: --host=0.0.0.0"),
        (["--gateway-host=0.0.0.0"], "--gateway-host requires --gateway-port"),
        (["--allow-api=everything"], "argument --allow-api: invalid choice: 'everything'"),
        (["--gpus=0,1"], "--gpus requires --profile gpu"),
        (["--profile=gpu", "--gpus=0,0"], "argument --gpus: '0,0', expected different GPU numbers such as 7,8"),
        (["--profile=gpu", "--gpus=0,one"], "argument --gpus: '0,one', expected different GPU numbers such as 7,8"),
        (["--profile=gpu", "--gpus=-1"], "argument --gpus: '-1', expected different GPU numbers such as 7,8"),
        (["--profile=gpu", "--gpus="], "argument --gpus: '', expected different GPU numbers such as 7,8"),
        (["--profile=gpu", "--cpu-instances=2"], "--cpu-instances requires --profile cpu"),
        (["--cpu-instances=0"], "argument --cpu-instances: '0', expected 1..64"),
        (["--cpu-instances=two"], "argument --cpu-instances: 'two', expected 1..64"),
    ],
)
def test_error_names_invalid_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit):
        options(monkeypatch, *arguments)
    assert words in capsys.readouterr().err


def test_unknown_variables_are_reported_with_the_nearest_known_one() -> None:
    environment = {
        "FLUX_MODEL_PATH": "x",
        "FLUX_REDUX_GPUS": "0",
        "FLUX_LORAS_PATH": "x",
        "FLUX_CONTROL_NET_MODEL_PATH": "x",
        "FLUX_GATEWAY_PROT": "the gateway rejects it",
        "FLUX_GATEWY_PORT": "x",
        "FLUX_": "x",
        "FLUXES": "x",
        "PATH": "x",
    }
    first, second, fourth, third = unknown_variables(environment)
    assert first.startswith("FLUX_ is unknown and ignored; known are FLUX_MODEL_PATH, FLUX_REDUX_MODEL_PATH, ")
    assert second == "FLUX_CONTROL_NET_MODEL_PATH is unknown and ignored; did you mean FLUX_CONTROLNET_MODEL_PATH?"
    assert third == "FLUX_LORAS_PATH is unknown and ignored; did you mean FLUX_LORA_PATH?"
    assert fourth == "FLUX_GATEWY_PORT is unknown and ignored; did you mean FLUX_GATEWAY_PORT?"


def test_gateway_variables_are_reported_if_no_gateway_is_started() -> None:
    environment = {"FLUX_GATEWAY_PORT": "1"}
    assert unknown_variables(environment) == []
    assert unknown_variables(environment, has_gateway=False) == [
        "FLUX_GATEWAY_PORT has no effect without --gateway-port"
    ]
