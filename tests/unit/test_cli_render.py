"""`renderfarm render` against a small real server that answers as the API does."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from cli.main import main
from renderfarm_client.wire import is_loopback
from tests.loopback import serving
from tests.waiting import wait_until

JOB = "job_01JD8QZ4M3N5P7R9S1T3V5W7X9"


class FakeFarm:
    """Answers each look at the job with the next of `looks`; the last one stays."""

    def __init__(self):
        self.orders = {}  # idempotency key -> body
        self.looks = []
        self.seen = 0
        self.canceled = False
        self.failures = []  # answers to give before the real ones
        self.key = None
        self.random_weights = False
        self.app = FastAPI()
        self.app.post("/jobs")(self.submit)
        self.app.get("/jobs/{job}")(self.look)
        self.app.post("/jobs/{job}/cancel")(self.cancel)
        self.app.get("/files/{job}/{name}")(self.file)
        self.app.get("/models/{model}")(self.model)
        self.app.middleware("http")(self.fail_first)

    async def fail_first(self, request, call_next):
        if self.failures:
            return self.failures.pop(0)
        wanted = self.key and not request.url.path.startswith("/files")
        if wanted and request.headers.get("authorization") != f"Bearer {self.key}":
            return problem(401, "invalid_api_key", "this key is not known")
        return await call_next(request)

    async def submit(self, request: Request):
        body = await request.json()
        if body.get("size") == "17x0":
            return problem(400, "invalid_size", "sides are multiples of 16", "size")
        self.orders[request.headers["idempotency-key"]] = body
        return JSONResponse(self.now(request), 200 if self.now(request)["done"] else 202)

    async def look(self, job: str, request: Request):
        self.seen += 1
        return JSONResponse(self.now(request), headers={"Retry-After": "1"})

    async def cancel(self, job: str, request: Request):
        self.canceled = True
        return JSONResponse(self.now(request))

    async def file(self, job: str, name: str):
        return Response(f"picture {name}".encode(), media_type="image/png")

    async def model(self, model: str):
        return JSONResponse({"id": model, "random_weights": self.random_weights})

    def now(self, request):
        look = self.looks[min(self.seen, len(self.looks) - 1)]
        seen = look(str(request.base_url))
        for order in self.orders.values():
            seen["input"]["output_format"] = order["output_format"]
        return seen


def problem(status, code, detail, field=None):
    error = {"message": detail, "type": "invalid_request_error", "param": field, "code": code}
    body = {
        "title": code,
        "status": status,
        "detail": detail,
        "request_id": "req_7",
        "error": error,
    }
    return JSONResponse(body, status, media_type="application/problem+json")


def job(status, *images, error=None):
    """One look at the job: `images` are (status, step)."""

    def at(base):
        def image(index, state, step):
            url = f"{base}files/{JOB}/{index}.png?exp=1&sig=x" if state == "succeeded" else None
            return {
                "index": index, "seed": 42 + index, "status": state, "url": url, "error": None,
                "cached": cached, "progress": {"step": step, "steps": 8},
            }  # fmt: skip

        cached = all(state == "succeeded" and step == 0 for state, step in images)
        done = status not in ("queued", "running")
        return {
            "id": JOB, "status": status, "done": done, "cached": cached, "input": {"model": "tiny"},
            "images": [image(k, *one) for k, one in enumerate(images)], "error": error,
            "queue_position": 3 if status == "queued" else None,
        }  # fmt: skip

    return at


@pytest.fixture
def farm():
    farm = FakeFarm()
    with serving(farm.app) as farm.url:
        yield farm


@pytest.fixture
def render(farm, tmp_path, monkeypatch):
    """Run `renderfarm render "a lighthouse"` in a fresh folder."""

    def run(*options, **env):
        arguments = ["render", "a lighthouse", "--url", farm.url, *options]
        return CliRunner().invoke(main, arguments, env=env, prog_name="renderfarm")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cli.options.ORDERING_PATIENCE_S", 1.0)
    return run


@pytest.fixture
def dead_url():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{closed.getsockname()[1]}"  # bound, but nobody listens


TWO_PICTURES = [
    job("queued", ("queued", 0), ("queued", 0)),
    job("running", ("running", 3), ("queued", 0)),
    job("running", ("succeeded", 8), ("storing", 8)),
    job("succeeded", ("succeeded", 8), ("succeeded", 8)),
]
NOT_CACHED = job("succeeded", ("succeeded", 8))


def test_two_pictures_are_saved_under_job_index_and_seed(farm, render, tmp_path):
    farm.looks = TWO_PICTURES

    result = render("--seed", "42", "--steps", "8", "-n", "2", "-o", "pictures")

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"pictures/{JOB}-0-42.png\tseed 42",
        f"pictures/{JOB}-1-43.png\tseed 43",
    ]
    saved = {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    assert saved == {
        f"{JOB}-0-42.png": b"picture 0.png",
        f"{JOB}-1-43.png": b"picture 1.png",
    }


def test_every_option_reaches_the_farm_and_only_those_given(farm, render):
    farm.looks = [NOT_CACHED]

    render()
    render(
        "--negative", "fog", "--size", "512x256", "--guidance", "3.5", "--model", "tiny",
        "--format", "webp", "--priority", "low", "--no-cache",
    )  # fmt: skip

    plain, full = farm.orders.values()
    assert plain == {"prompt": "a lighthouse", "n": 1, "output_format": "png"}
    assert full == {
        "prompt": "a lighthouse", "n": 1, "output_format": "webp", "negative_prompt": "fog",
        "size": "512x256", "guidance_scale": 3.5, "model": "tiny", "priority": "low",
        "cache": "bypass",
    }  # fmt: skip


def test_a_jpeg_is_called_jpg(farm, render, tmp_path):
    farm.looks = [NOT_CACHED]

    render("--format", "jpeg")

    assert (tmp_path / "out" / f"{JOB}-0-42.jpg").exists()


def test_json_is_one_object_on_stdout(farm, render):
    farm.looks = TWO_PICTURES

    result = render("-n", "2", "--json")

    told = json.loads(result.stdout)
    assert told["job"] == JOB
    assert told["status"] == "succeeded"
    assert told["cached"] is False
    assert told["images"][1] == {
        "index": 1, "seed": 43, "status": "succeeded", "cached": False, "error": None,
        "path": f"out/{JOB}-1-43.png",
    }  # fmt: skip


def test_a_picture_from_the_cache_is_called_cached(farm, render):
    farm.looks = [job("succeeded", ("succeeded", 0))]

    result = render()

    assert result.stdout == f"out/{JOB}-0-42.png\tseed 42\tcached\n"
    assert farm.seen == 0  # done at submission: nothing to look at


def test_a_failed_job_is_code_1_and_its_finished_pictures_are_saved(farm, render, tmp_path):
    error = {"code": "out_of_memory", "message": "the GPU is too small", "retryable": True}
    farm.looks = [job("failed", ("succeeded", 8), ("failed", 2), error=error)]

    result = render("-n", "2")

    assert result.exit_code == 1
    assert f"{JOB} failed: the GPU is too small (out_of_memory)" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{JOB}-0-42.png"]


def test_a_canceled_job_is_code_1(farm, render):
    farm.looks = [job("running", ("running", 1)), job("canceled", ("canceled", 1))]

    result = render()

    assert result.exit_code == 1
    assert f"{JOB} was canceled" in result.stderr


def test_a_refused_order_is_code_2_and_names_field_and_request(farm, render):
    result = render("--size", "17x0")

    assert result.exit_code == 2
    assert result.stderr == (
        "renderfarm: size: sides are multiples of 16 (HTTP 400, request req_7)\n"
    )
    assert farm.orders == {}


def test_a_wrong_key_is_code_2_and_the_right_one_comes_from_the_environment(farm, render):
    farm.key, farm.looks = "wonder", [NOT_CACHED]

    refused = render("--key", "looking-glass")
    taken = render(RENDERFARM_KEY="wonder")

    assert (refused.exit_code, taken.exit_code) == (2, 0)
    assert "this key is not known" in refused.stderr
    assert "looking-glass" not in refused.stderr


def test_an_unreachable_farm_is_code_3(render, dead_url):
    result = render("--url", dead_url)

    assert result.exit_code == 3
    assert dead_url in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_server_that_is_no_farm_is_code_3(farm, render):
    farm.failures = [Response("<h1>It works!</h1>", media_type="text/html")]

    result = render()

    assert result.exit_code == 3
    assert "does not answer like a render farm" in result.stderr


def test_an_address_without_a_scheme_is_wrong_usage(render):
    result = render("--url", "localhost:8000")

    assert result.exit_code == 2
    assert "does not start with http" in result.stderr


def test_a_job_that_takes_too_long_is_code_4_and_goes_on(farm, render):
    farm.looks = [job("running", ("succeeded", 8), ("running", 1))]

    result = render("-n", "2", "--timeout", "0.3")

    assert result.exit_code == 4
    assert f"{farm.url}/jobs/{JOB}" in result.stderr
    assert f"{JOB}-0-42.png" in result.stdout
    assert not farm.canceled


def test_a_farm_that_stumbles_is_asked_again_and_makes_one_job(farm, render):
    busy = problem(503, "store_unavailable", "the job store does not answer")
    farm.looks, farm.failures = [NOT_CACHED], [busy, busy]

    result = render()

    assert result.exit_code == 0
    assert len(farm.orders) == 1


def test_a_farm_that_stays_down_is_code_3_with_its_own_words(farm, render):
    down = [problem(503, "store_unavailable", "the job store does not answer") for _ in range(99)]
    farm.failures = down

    result = render()

    assert result.exit_code == 3
    assert "the job store does not answer (HTTP 503, request req_7)" in result.stderr


DEEP = b"[" * 200_000


@pytest.mark.parametrize(
    ("status", "headers", "body", "code"),
    [
        (401, {}, b'{"error": "who are you?"}', 2),
        (400, {}, b'{"error": [1]}', 2),
        (400, {}, DEEP, 2),
        (302, {"Location": "/login"}, b"", 2),
        (200, {}, DEEP, 3),
        (200, {}, b"<html>", 3),
        (200, {"Content-Encoding": "gzip"}, b"not gzip", 3),
        (202, {"Retry-After": "9" * 5000}, b"{}", 3),
        (503, {"Retry-After": "9" * 400}, b"{}", 3),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_server_that_is_no_farm_is_one_line(farm, render, status, headers, body, code):
    farm.failures = [Response(body, status, headers) for _ in range(99)]

    result = render()

    assert (result.exit_code, result.stderr.count("\n")) == (code, 1), result.exception
    assert result.stderr.startswith("renderfarm: ")


@pytest.mark.parametrize(
    "options",
    [
        ("--guidance", "nan"),
        ("--negative", "\udcff"),
        ("--url", "http://["),
        ("--url", "http://\x01"),
        ("--url", "http://" + "a" * 300),
        ("--key", "secret\n"),
        ("--key", "secretä"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_cannot_be_sent_is_wrong_usage(farm, render, options):
    farm.looks = [NOT_CACHED]

    result = render(*options)

    assert (result.exit_code, farm.orders) == (2, {}), result.exception
    assert "secret" not in result.stderr


def test_a_picture_whose_url_is_none_is_one_line(farm, render):
    def look(base):
        seen = NOT_CACHED(base)
        seen["images"][0]["url"] = "http://\x01/"
        return seen

    farm.looks = [look]

    assert render().exit_code in (2, 3)


@pytest.mark.parametrize(("options", "told"), [((), 1), (("-q",), 0)])
def test_random_weights_are_said_once_unless_quiet(farm, render, options, told):
    farm.looks, farm.random_weights = TWO_PICTURES, True

    result = render("-n", "2", *options)

    assert result.stderr.count("tiny has random weights") == told
    assert result.exit_code == 0


def test_a_folder_that_cannot_be_written_is_one_line_and_code_1(farm, render, tmp_path):
    farm.looks = [NOT_CACHED]
    (tmp_path / "file").write_text("")

    result = render("-o", "file/out")

    assert result.exit_code == 1
    assert "cannot save file/out" in result.stderr


def test_ctrl_c_cancels_the_job_and_is_code_130(farm, tmp_path):
    farm.looks = [job("running", ("running", 1))]
    waiting = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "render", "a lighthouse", "--url", farm.url],
        stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    wait_until(lambda: farm.seen > 0)

    os.kill(waiting.pid, signal.SIGINT)
    _, told = waiting.communicate(timeout=10)

    assert waiting.returncode == 130
    assert farm.canceled
    assert told == f"renderfarm: {JOB} canceled\n"


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://[::1]:8000", True),
        ("https://localhost", True),
        ("https://farm.example", False),
        ("http://10.0.0.7:8000", False),
    ],
)
def test_loopback_is_known_by_its_address(url, loopback):
    assert is_loopback(url) is loopback
