"""Small objects and input pictures, on a folder and on a real S3 server; what the job store knows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest

from shared.gc import find_inputs, sweep_inputs
from shared.results.inputs import InputMissing, Inputs
from shared.results.port import ResultStore
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore, connect
from shared.store.scripts import StoreConfig
from tests.orders import submission
from tests.servers.grounds import Bucket, Folder, Ground

A, B, C = "a1" * 32, "b2" * 32, "c3" * 32
TODAY = date(2026, 3, 1)


@pytest.fixture(params=["folder", pytest.param("http", marks=pytest.mark.s3)])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Ground:
    if request.param == "folder":
        return Folder(tmp_path / "results")
    make_bucket: Callable[[str], Bucket] = request.getfixturevalue("make_bucket")
    return make_bucket(request.param)


@pytest.fixture
def objects(ground: Ground) -> ResultStore:
    return ground.store()


@pytest.fixture(params=["memory", "redis"])
def jobs(request: pytest.FixtureRequest) -> JobStore:
    if request.param == "memory":
        return MemoryJobStore()
    url = request.getfixturevalue("redis_of")("valkey")
    return RedisJobStore(connect(url, patience_s=5.0), StoreConfig(ticket="{}"))


def on(objects: ResultStore, days_ago: int = 0) -> Inputs:
    return Inputs(objects, lambda: TODAY - timedelta(days=days_ago))


def test_objects_are_put_listed_and_taken_away(objects: ResultStore, ground: Ground) -> None:
    for name in ("inputs/b/2.png", "inputs/a/1.png", "inputs/b/1.png"):
        objects.put_object(name, name.encode(), "image/png")
    objects.put_object("inputs/a/1.png", b"newer", "image/png")

    assert list(objects.list_objects("inputs/b/")) == ["inputs/b/1.png", "inputs/b/2.png"]
    assert len(list(objects.list_objects("inputs/"))) == 3
    assert objects.get_object("inputs/a/1.png") == b"newer"

    objects.delete_object("inputs/a/1.png")
    objects.delete_object("inputs/a/1.png")

    assert objects.get_object("inputs/a/1.png") is None
    assert list(objects.list_objects("inputs/a/")) == []
    assert ground.names() == {"inputs/b/1.png", "inputs/b/2.png"}


def test_objects_are_no_results(objects: ResultStore) -> None:
    on(objects).put("alice", A, b"png")

    assert list(objects.walk()) == []


def test_a_worker_reads_whoevers_copy_there_is(objects: ResultStore) -> None:
    on(objects, 3).put("alice", A, b"png")

    assert on(objects).get(A) == b"png"
    for missing in (B, "../" + A, A.upper(), "", "x"):
        with pytest.raises(InputMissing):
            on(objects).get(missing)


def test_an_owner_sees_only_what_he_put(objects: ResultStore) -> None:
    on(objects, 1).put("alice", A, b"png")

    assert on(objects).of("alice", A) == b"png"
    with pytest.raises(InputMissing):
        on(objects).of("bob", A)
    with pytest.raises(InputMissing):
        on(objects).renew("bob", A)


def test_no_name_of_an_owner_stands_in_the_storage(objects: ResultStore, ground: Ground) -> None:
    on(objects).put("alice", A, b"png")

    [name] = ground.names()
    assert name.startswith(f"inputs/{A}/")
    assert name.endswith(".2026-03-01.png")
    assert "alice" not in name


def test_what_no_job_starts_from_goes_on_the_second_day(
    objects: ResultStore, jobs: JobStore
) -> None:
    for days_ago, sha256 in enumerate((A, B, C)):
        on(objects, days_ago).put("alice", sha256, b"png")

    gone = list(sweep_inputs(on(objects), find_inputs(jobs, on(objects))))

    assert [copy.sha256 for copy in gone] == [C]
    assert on(objects).get(B) == b"png"
    with pytest.raises(InputMissing):
        on(objects).get(C)


def test_what_a_remembered_job_starts_from_stays(objects: ResultStore, jobs: JobStore) -> None:
    for sha256 in (A, B, C):
        on(objects, 400).put("alice", sha256, b"png")
    jobs.submit(submission(init_image_sha256=A, mask_image_sha256=B, strength=0.5))
    jobs.submit(submission(seed=1))

    assert jobs.inputs_in_use() == {A, B}
    assert [copy.sha256 for copy in find_inputs(jobs, on(objects))] == [C]


def test_what_is_used_again_while_gc_runs_stays(objects: ResultStore, jobs: JobStore) -> None:
    """gc has looked, the order comes, gc deletes: the order's own copy is not the one that goes."""
    on(objects, 400).put("alice", A, b"png")
    found = find_inputs(jobs, on(objects))

    on(objects).renew("alice", A)
    jobs.submit(submission(init_image_sha256=A, strength=0.5))

    assert len(list(sweep_inputs(on(objects), found))) == 1
    assert on(objects).get(A) == b"png"
    assert on(objects).of("alice", A) == b"png"


def test_a_strangers_object_is_left_alone(objects: ResultStore, jobs: JobStore) -> None:
    strange = [f"inputs/{A}/readme.txt", f"inputs/{A}/{'0' * 16}.2026-99-99.png", "inputs/x.png"]
    for name in strange:
        objects.put_object(name, b"?", "text/plain")

    assert find_inputs(jobs, on(objects)) == []
    with pytest.raises(InputMissing):
        on(objects).get(A)
