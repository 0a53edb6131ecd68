"""The receiver of docs/webhooks.md, as it stands there, hears what a courier sends."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from shared.store.outbox import LANE_MOST, LOG_MOST, OWNER_MOST, SECRETS_MOST
from shared.webhooks import MOST_BYTES, PAUSES_S, TIMEOUT_S, new_secret, signed
from worker.webhooks import LEASE_S, SLOTS

PAGE = (Path(__file__).parents[2] / "docs/webhooks.md").read_text("utf-8")
BODY = '{"type":"job.succeeded","data":{"id":"job_1"}}'


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    secret = new_secret()
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    return secret


def test_the_python_receiver_verifies_and_handles_each_message_once(
    secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.search(r"```python\n(.+?)```", PAGE, re.DOTALL)
    assert code
    names: dict[str, object] = {}
    exec(compile(code[1], "docs/webhooks.md", "exec", dont_inherit=True), names)
    client = TestClient(names["app"])  # type: ignore[arg-type]
    good = signed([new_secret(), secret], "msg_1", time.time(), BODY)
    forged = signed([new_secret()], "msg_2", time.time(), BODY)

    answers = [
        client.post("/hooks/renders", content=BODY, headers=headers).status_code
        for headers in (good, good, forged)
    ]

    assert answers == [204, 204, 401]
    assert capsys.readouterr().out == "job.succeeded job_1\n"


def test_the_figures_of_the_page_are_those_of_the_code() -> None:
    spans = {"s": 1, "min": 60, "h": 3600}
    row = re.search(r"\| after a pause of \| 0 \|(.+)\|", PAGE)
    assert row
    pauses = [cell.split() for cell in row[1].split("|")]
    assert tuple(float(number) * spans[unit] for number, unit in pauses) == PAUSES_S
    for words in (
        f"under {MOST_BYTES // 1000} kB", f"A try has {TIMEOUT_S:.0f} s",
        f"the last {LOG_MOST} attempts", f"after {LEASE_S:.0f} s at most",
        f"at most {LANE_MOST}\n", f"one owner {OWNER_MOST}, one process {SLOTS}",
        f"the {sum(PAUSES_S) / 3600:.0f} hours of all",
    ):  # fmt: skip
        assert words in PAGE, words
    assert SECRETS_MOST == 4
    assert "the four\nnewest sign" in PAGE
