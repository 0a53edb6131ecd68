"""The one-machine farm with stand-ins for its parts: order, environment, restarts, readiness."""

import json
import os
import signal
import socket
import sys

import pytest

from deploy.local import TARGETS, LocalFarm, bindable
from deploy.slots import Slot
from shared.errors import FarmError, SettingsError
from shared.settings import load_settings
from tests.waiting import wait_until

ON_CPU = Slot("box-cpu0", {"FARM_DEVICE": "cpu"})
# Writes down how it was started; says when it was asked to end.
PART = """
import json, os, signal, sys, time
story = open(os.environ["STORY"], "a", buffering=1)
def leave(*_):
    story.write(f"end {sys.argv[1]}\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
farm = {k: v for k, v in os.environ.items() if k.startswith(("FARM_", "CUDA"))}
story.write("start " + json.dumps([sys.argv[1:], os.getpid(), farm]) + "\\n")
while True: time.sleep(0.1)
"""


class FakeRedis:
    def __init__(self, story):
        self.alive = False
        self.url = "redis://:secret@127.0.0.1:1/0"
        self.starts = 0
        self._story = story

    def start(self):
        self.alive, self.starts = True, self.starts + 1

    def stop(self):
        self.alive = False
        with self._story.open("a") as story:
            story.write("end redis\n")


@pytest.fixture
def story(tmp_path, monkeypatch):
    path = tmp_path / "story"
    path.touch()
    monkeypatch.setenv("STORY", str(path))
    return path


@pytest.fixture
def farm(tmp_path, story):
    """Make farms of stand-ins; what they start ends with the test."""
    made = []

    def make(part=PART, slots=(ON_CPU,), **settings):
        given = {"FARM_DATA_DIR": str(tmp_path / "data"), **settings}
        one = LocalFarm(
            load_settings(given), "tiny", slots, FakeRedis(story), reports.append,
            command=(sys.executable, "-c", part),
        )  # fmt: skip
        one.redis, one.reports = one._redis, reports
        made.append(one)
        return one

    reports = []
    yield make
    for one in made:
        one.stop(hurry=lambda: True)


def starts(story):
    """{arguments: (pid, environment)} of the parts that have started."""
    lines = (line for line in story.read_text().splitlines() if line.startswith("start "))
    told = (json.loads(line.removeprefix("start ")) for line in lines)
    return {" ".join(argv): (pid, env) for argv, pid, env in told}


def test_every_part_starts_with_the_settings_of_the_farm_and_a_slot_of_its_own(
    farm, story, tmp_path, monkeypatch
):
    monkeypatch.setenv("FARM_PORT", "1")  # the supervisor's own choice wins over what it inherited
    slots = [
        Slot("box-gpu0", {"CUDA_VISIBLE_DEVICES": "0"}),
        Slot("box-cpu1", {"FARM_DEVICE": "cpu"}),
    ]

    one = farm(slots=slots, FARM_PORT="8123", FARM_WORKER_METRICS_PORT="9100")
    one.start()
    wait_until(lambda: len(starts(story)) == 3)  # both workers have the same arguments

    env = starts(story)["api"][1]
    assert (env["FARM_PORT"], env["FARM_REDIS_URL"]) == ("8123", one.redis.url)
    assert set(starts(story)) == {"api", "chores", "worker --model tiny"}
    wait_until(lambda: story.read_text().count("start ") == 4)
    told = [json.loads(x[6:])[2] for x in story.read_text().splitlines() if '"worker"' in x]
    workers = {env["FARM_WORKER_NAME"]: env for env in told}
    assert workers["box-gpu0"]["CUDA_VISIBLE_DEVICES"] == "0"
    assert workers["box-cpu1"]["FARM_DEVICE"] == "cpu"
    assert [workers[name]["FARM_WORKER_METRICS_PORT"] for name in sorted(workers)] == [
        "9101",
        "9100",
    ]
    assert sorted(path.name for path in (tmp_path / "data/logs").iterdir()) == [
        "api.log", "chores.log", "worker-box-cpu1.log", "worker-box-gpu0.log",
    ]  # fmt: skip


def test_every_part_has_a_page_of_metrics_and_a_file_says_where(farm, story, tmp_path):
    slots = [Slot("box-cpu0", {}), Slot("box-cpu1", {})]

    farm(
        slots=slots, FARM_HOST="0.0.0.0", FARM_PORT="8123", FARM_CHORES_METRICS_PORT="9200"
    ).start()

    [found] = json.loads((tmp_path / "data" / TARGETS).read_text())
    api, chores, *workers = found["targets"]
    assert (api, chores) == ("127.0.0.1:8123", "127.0.0.1:9200")
    wait_until(lambda: story.read_text().count("start ") == 4)
    told = [json.loads(x[6:])[2] for x in story.read_text().splitlines() if '"worker"' in x]
    assert {f"127.0.0.1:{env['FARM_WORKER_METRICS_PORT']}" for env in told} == set(workers)
    assert len(set(workers)) == 2


def test_an_address_for_metrics_that_is_not_this_machines_is_named(farm):
    with pytest.raises(
        SettingsError, match=r"FARM_WORKER_METRICS_HOST: cannot listen on 192\.0\.2\.1"
    ):
        farm(FARM_WORKER_METRICS_HOST="192.0.2.1").start()


def test_the_farm_ends_api_first_and_redis_last(farm, story):
    one = farm()
    one.start()
    wait_until(lambda: len(starts(story)) == 3)

    one.stop(hurry=lambda: False)

    ends = [line for line in story.read_text().splitlines() if line.startswith("end")]
    assert ends == ["end api", "end worker", "end chores", "end redis"]


def test_a_worker_that_dies_is_started_again(farm, story):
    one = farm()
    one.start()
    wait_until(lambda: "worker --model tiny" in starts(story))
    first = starts(story)["worker --model tiny"][0]

    os.kill(first, signal.SIGKILL)
    wait_until(lambda: one.tick() or starts(story)["worker --model tiny"][0] != first)

    assert "worker-box-cpu0 was ended by SIGKILL" in one.reports[0]


def test_redis_that_dies_is_started_again_and_not_too_often(farm, story):
    one = farm()
    one.start()

    one.redis.alive = False
    one.tick()
    one.redis.alive = False
    one.tick()

    assert one.redis.starts == 2
    wait_until(lambda: one.tick() or one.redis.starts == 3)


def test_redis_at_another_address_ends_the_farm_in_words(farm, story):
    one = farm()
    one.start()

    one.redis.alive, one.redis.start = False, lambda: setattr(one.redis, "url", "redis://else")

    with pytest.raises(FarmError, match="lost its port"):
        one.tick()


def test_a_part_that_refuses_its_settings_ends_the_farm_with_its_reason(farm, story):
    one = farm(
        part="import sys; sys.exit(2 if sys.argv[1] == 'api' and not print('no keys') else 0)"
    )
    one.start()

    with pytest.raises(FarmError, match="api: no keys"):
        wait_until(one.tick)


def test_a_port_that_is_taken_is_named_with_the_way_out():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(SettingsError, match=rf"port {port} .*--port"):
            bindable("127.0.0.1", port)


def test_port_0_finds_a_free_one():
    assert bindable("127.0.0.1", 0) > 0


def test_an_address_that_is_not_ours_is_told():
    with pytest.raises(SettingsError, match=r"cannot listen on 192\.0\.2\.1"):
        bindable("192.0.2.1", 8000)
