"""Poison for operators: the routes, and `renderfarm poison` and `retry` on the served API."""

import json

import pytest
from click.testing import CliRunner

from cli.main import main
from shared.settings import Settings
from tests.api_kit import Farm
from tests.loopback import serving

KEYS = "alice:alice-key bob:bob-key root:root-key:admin"
FOX = {"prompt": "a red fox", "seed": 1}


@pytest.fixture
def farm():
    return Farm(Settings(api_keys=KEYS))


@pytest.fixture
def root(farm):
    return farm.client("root-key")


def order(farm, key="alice-key", **fields):
    return farm.client(key).post("/jobs", json=FOX | fields).json()["id"]


def take_down(farm):
    """The next render loses three workers; its id."""
    for _ in range(3):
        claimed = farm.claim()
        farm.store.release(claimed.render_id, claimed.token, lost=True)
    return claimed.render_id


def test_the_list_says_what_whose_and_why(farm, root):
    jobs = {order(farm), order(farm, "bob-key")}
    render = take_down(farm)

    [entry] = root.get("/poison").json()["data"]

    assert (entry["render"], entry["spec"]["prompt"]) == (render, "a red fox")
    assert (set(entry["jobs"]), entry["owners"]) == (jobs, ["alice", "bob"])
    assert (entry["attempts"], entry["losses"], entry["error"]["code"]) == (3, 3, "worker_lost")
    assert entry["failed_at"].endswith("Z")


def test_a_retry_orders_every_failed_job_again_and_drops_the_render(farm, root):
    jobs = {order(farm), order(farm, "bob-key")}
    render = take_down(farm)

    answer = root.post(f"/poison/{render}/retry")

    fresh = answer.json()["data"]
    assert answer.status_code == 202
    assert {job["retries"] for job in fresh} == jobs
    assert {job["owner"] for job in fresh} == {"alice", "bob"}
    assert farm.pending == 1  # they share one render
    assert root.get("/poison").json()["data"] == []
    assert root.post(f"/poison/{render}/retry").status_code == 404
    farm.render()
    assert root.get(f"/jobs/{fresh[0]['id']}").json()["status"] == "succeeded"


def test_poison_of_a_job_with_open_images_stays_until_the_job_is_done(farm, root):
    order(farm, n=2)
    render = take_down(farm)

    early = root.post(f"/poison/{render}/retry")
    farm.render()
    late = root.post(f"/poison/{render}/retry")

    assert [len(answer.json()["data"]) for answer in (early, late)] == [0, 1]
    assert root.get("/poison").json()["data"] == []


def test_a_retry_that_broke_half_way_makes_no_job_twice(farm, root):
    order(farm)
    render = take_down(farm)
    kept = dict(farm.store._poison)
    first = root.post(f"/poison/{render}/retry").json()["data"]
    farm.store._poison.update(kept)  # as if the API had died before it dropped the render

    second = root.post(f"/poison/{render}/retry").json()["data"]

    assert [job["id"] for job in first] == [job["id"] for job in second]


def test_a_dropped_render_leaves_its_jobs_failed(farm, root):
    job = order(farm)
    render = take_down(farm)

    assert root.delete(f"/poison/{render}").status_code == 204

    assert root.get("/poison").json()["data"] == []
    assert root.get(f"/jobs/{job}").json()["status"] == "failed"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/poison"), ("POST", "/poison/x/retry"), ("DELETE", "/poison/x")],
)
def test_poison_is_for_admins_only(farm, method, path):
    for key, status, code in (("alice-key", 403, "admin_only"), (None, 401, "missing_api_key")):
        answer = farm.client(key).request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


# ------------------------------------------------------------------------- the command line


@pytest.fixture
def renderfarm(farm):
    with serving(farm.app) as url:

        def run(*arguments, key="root-key"):
            environment = {"RENDERFARM_URL": url, "RENDERFARM_KEY": key}
            return CliRunner().invoke(main, arguments, env=environment, prog_name="renderfarm")

        yield run


def test_the_command_lists_retries_and_drops(farm, renderfarm):
    job = order(farm)
    render = take_down(farm)

    [listed] = json.loads(renderfarm("poison", "list", "--json").stdout)
    assert (listed["render"], listed["jobs"]) == (render, [job])
    assert "a red fox" in renderfarm("poison", "list").stdout
    retried = renderfarm("poison", "retry", render)
    assert (retried.exit_code, retried.stdout.startswith("job_")) == (0, True)
    assert renderfarm("poison", "list").stdout == "no render is on the list\n"
    take_down(farm)
    assert renderfarm("poison", "drop", farm.store.poison()[0].render_id).exit_code == 0
    assert farm.store.poison() == []


@pytest.mark.parametrize("prompt", ["a [/b] fox", "a [cat] fox", "a \x1b]0;owned\x07 fox"])
def test_the_command_shows_a_prompt_as_it_is(farm, renderfarm, prompt):
    order(farm, prompt=prompt)
    take_down(farm)

    shown = renderfarm("poison", "list")

    assert shown.exit_code == 0
    assert "\x1b" not in shown.stdout
    assert prompt in shown.stdout or "\x1b" in prompt


def test_the_command_says_what_is_wrong(farm, renderfarm):
    unknown = renderfarm("poison", "drop", "nothing")
    forbidden = renderfarm("poison", "list", key="alice-key")

    assert (unknown.exit_code, forbidden.exit_code) == (2, 2)
    assert "no such render" in unknown.stderr
    assert "an admin's key" in forbidden.stderr


def test_the_command_retries_a_failed_job(farm, renderfarm):
    job = order(farm)
    assert "has not finished" in renderfarm("retry", job, key="alice-key").stderr
    farm.fail()

    retried = renderfarm("retry", job, key="alice-key")

    new, url = retried.stdout.split()
    assert farm.store.get(new).retries == job
    assert url.endswith(f"/jobs/{new}")
