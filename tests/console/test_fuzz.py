"""The API under Schemathesis: whatever is sent, no 500, and answers as they are described."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from phalanx.console.api import COOKIE
from phalanx.console.sessions import RateLimit
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import run_scenario
from tests.nightly import examples

from .test_api import Bench

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]
schemathesis = pytest.importorskip("schemathesis")
SCENARIO = Path(__file__).parents[2] / "scenarios" / "quickstart-ring.yaml"


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_nothing_that_is_sent_breaks_the_server(role: Any) -> None:
    bench = Bench(run_scenario(load_scenario(SCENARIO)).events)
    bench.api._calls = bench.api._logins = RateLimit(1e9, 1e9, time.monotonic)
    session = bench.sessions.login(bench.sessions.token(role))
    assert session is not None
    headers = {"cookie": f"{COOKIE}={session.cookie}", "x-csrf": session.csrf}
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", bench.api.app, headers=headers)
    statuses: set[int] = set()
    for operation in schema.get_all_operations():

        @given(case=operation.ok().as_strategy())
        @settings(
            max_examples=examples(24),
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        def look(case: Any) -> None:
            answer = case.call(headers=headers)
            statuses.add(answer.status_code)
            assert answer.status_code < 500, (case.method, case.path, answer.text)
            case.validate_response(
                answer,
                checks=[
                    schemathesis.checks.not_a_server_error,
                    schemathesis.specs.openapi.checks.response_schema_conformance,
                    schemathesis.specs.openapi.checks.content_type_conformance,
                    schemathesis.specs.openapi.checks.status_code_conformance,
                ],
            )

        look()
    assert 200 in statuses
    assert (403 in statuses) == (role == "viewer") or role == "operator"
    bench.feed.close()
