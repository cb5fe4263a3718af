"""The OpenAPI description is correct: schemathesis sends requests that it allows, and many that it does not."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from flux_client import AsyncFluxClient, RetryPolicy
from flux_client.fake import AsyncFakeTransport
from flux_gateway.app import make_app
from flux_gateway.settings import Settings

pytestmark = pytest.mark.slow

_ALL = Settings(hosts="testserver", concurrency=1000, concurrency_per_caller=1000, result_s=0.1, pixels=256 * 256)
APP = make_app(_ALL, AsyncFluxClient(transport=AsyncFakeTransport(), retry=RetryPolicy(attempts=1)))
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.filterwarnings("default")
@SCHEMA.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_responses_match_the_description(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS)
