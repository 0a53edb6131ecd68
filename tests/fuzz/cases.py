"""One case against the API: sent, judged, and what a refusal left behind."""

from __future__ import annotations

import time
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.schemas import APIOperation

from tests.fuzz.ground import Ground

SLOW_S = 5.0
NAMES = (
    "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance",
)  # fmt: skip


def fuzz(
    ground: Ground, operation: APIOperation[Any, Any, Any, Any], cases: int, *, fixed: bool
) -> int:
    """Send so many cases, half of them wrong on purpose; how many were sent. Raises what is wrong.

    `fixed`: the same ones each time.
    """
    sent = 0
    settings = hypothesis.settings(
        max_examples=max(1, cases // 2), deadline=None, database=None, derandomize=fixed,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        # An event stream of a job that is not done has no end.
        jobs = ground.done if operation.path.endswith("/events") else ground.jobs
        try:
            strategy = operation.as_strategy(generation_mode=mode)
            known = st.none() | st.sampled_from(jobs)

            @settings
            @given(strategy, known)
            def run(case: Any, job: str | None) -> None:
                nonlocal sent
                if job is not None and "job_id" in (case.path_parameters or {}):
                    case.path_parameters["job_id"] = job
                sent += 1
                judge(ground, case)

            run()
        except hypothesis.errors.Unsatisfiable:  # such as a route that nothing can be wrong of
            continue
    return sent


def judge(ground: Ground, case: Any) -> None:
    before, started = ground.remembered(), time.monotonic()
    answer = case.call(headers=ground.headers)
    took_s = time.monotonic() - started
    assert took_s < SLOW_S, f"{case.as_curl_command()} took {took_s:.1f} s"
    case.validate_response(answer, checks=CHECKS.get_by_names(NAMES), headers=ground.headers)
    status = answer.status_code
    assert status < 500 or _is_later(answer), f"{case.as_curl_command()} answered {status}"
    if 400 <= status < 500 or status == 503:  # at 504 the job was taken, and is named
        left = ground.remembered() - before
        assert left <= 0, f"{case.as_curl_command()}: {status}, and {left} keys are left"


def _is_later(answer: Any) -> bool:
    """503 says when to come back, 504 that it is not worth it."""
    wanted = {503: "retry-after", 504: "x-should-retry"}.get(answer.status_code)
    return wanted is not None and wanted in answer.headers
