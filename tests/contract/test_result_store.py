"""The contract of every ResultStore, on a folder and on a real S3 server, http and https."""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import pytest
from results_samples import FINGERPRINT, FIRST, OTHER, PNG, SECOND, name, sample

from shared.errors import ResultGone
from shared.results.port import ResultStore
from tests.servers.grounds import Bucket, Folder, Ground

s3 = pytest.mark.s3
HOSTILE_TOKENS = ["", ".", "../x", "a/b", "a\\b", "x" * 41, "a\n", "ü", "a\0"]
HOSTILE_FINGERPRINTS = ["", "..", "../" * 22, FINGERPRINT.upper(), f"{FINGERPRINT}\n", "ü" * 64]


@pytest.fixture(params=["folder", pytest.param("http", marks=s3), pytest.param("https", marks=s3)])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Ground:
    if request.param == "folder":
        return Folder(tmp_path / "results")
    make_bucket: Callable[[str], Bucket] = request.getfixturevalue("make_bucket")
    return make_bucket(request.param)


@pytest.fixture
def store(ground: Ground) -> ResultStore:
    return ground.store()


def test_what_was_put_is_found_and_read_back(store: ResultStore) -> None:
    store.put(sample(), PNG, {})

    found = store.find(FINGERPRINT)

    assert found == sample()
    assert b"".join(store.read(found)) == PNG


def test_nothing_is_found_where_nothing_was_put(store: ResultStore) -> None:
    assert store.find(FINGERPRINT) is None

    store.put(sample(), PNG, {})

    assert store.find(OTHER) is None


def test_objects_have_the_names_of_the_port(store: ResultStore, ground: Ground) -> None:
    store.put(sample(), PNG, {})

    assert ground.names() == {name(sample(), "png"), name(sample(), "json")}
    assert ground.fetch(name(sample(), "png")) == PNG


def test_details_stand_in_the_record_in_any_script(store: ResultStore, ground: Ground) -> None:
    details = {"prompt": "ein Fuchs, 狐, 🦊, \u202e\u0000", "steps": 28, "loras": [{"scale": 0.5}]}

    store.put(sample(), PNG, details)

    record = json.loads(ground.fetch(name(sample(), "json")))
    assert record["details"] == details
    assert record["sha256"] == sample().sha256
    assert store.find(FINGERPRINT) == sample()


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (0, None), (7, 500), (len(PNG) - 1, None), (100, 10**9), (3, 3), (len(PNG), None)],
)
def test_a_range_is_a_slice(store: ResultStore, start: int, end: int | None) -> None:
    store.put(sample(), PNG, {})

    assert b"".join(store.read(sample(), start, end)) == PNG[start:end]


def test_a_big_picture_comes_in_pieces(store: ResultStore) -> None:
    png = os.urandom(8 * 1024 * 1024)
    store.put(sample(png=png), png, {})

    pieces = list(store.read(sample(png=png)))

    assert b"".join(pieces) == png
    assert max(map(len, pieces)) <= 256 * 1024


def test_a_reader_may_leave_in_the_middle(store: ResultStore) -> None:
    png = os.urandom(1024 * 1024)
    store.put(sample(png=png), png, {})

    store.read(sample(png=png))
    next(store.read(sample(png=png)))

    assert b"".join(store.read(sample(png=png))) == png


def test_reading_a_lost_picture_fails_at_once(store: ResultStore, ground: Ground) -> None:
    store.put(sample(), PNG, {})
    ground.remove(name(sample(), "png"))

    with pytest.raises(ResultGone):
        store.read(sample())
    with pytest.raises(ResultGone):
        store.read(sample(), 5, 5)


@pytest.mark.parametrize("wrong", [PNG[:-1], PNG + b"x", b""])
def test_a_picture_of_another_size_is_neither_found_nor_read(
    store: ResultStore, ground: Ground, wrong: bytes
) -> None:
    store.put(sample(), PNG, {})
    ground.place(name(sample(), "png"), wrong)

    assert store.find(FINGERPRINT) is None
    for start, end in [(0, None), (0, 10), (len(PNG) - 1, None)]:
        with pytest.raises(ResultGone):
            store.read(sample(), start, end)


def test_the_same_token_may_be_put_again(store: ResultStore, ground: Ground) -> None:
    store.put(sample(), PNG, {})
    store.put(sample(), PNG, {})

    assert store.find(FINGERPRINT) == sample()
    assert len(ground.names()) == 2


def test_a_put_that_broke_half_way_is_mended_by_the_next(
    store: ResultStore, ground: Ground
) -> None:
    ground.place(name(sample(), "png"), PNG[:100])

    store.put(sample(), PNG, {})

    assert store.find(FINGERPRINT) == sample()


def test_the_oldest_complete_result_wins(store: ResultStore, ground: Ground) -> None:
    tokens = [f"{FIRST[:-1]}{end}" for end in "0123ABab"]
    for token in reversed(tokens):
        store.put(sample(token), PNG, {})

    for token in tokens:
        assert store.find(FINGERPRINT) == sample(token)
        ground.remove(name(sample(token), "png"))
    assert store.find(FINGERPRINT) is None


def test_a_picture_without_a_record_is_never_found(store: ResultStore, ground: Ground) -> None:
    ground.place(name(sample(), "png"), PNG)

    assert store.find(FINGERPRINT) is None


@pytest.mark.parametrize("torn", [b"", b"{", b'{"fingerprint": "a1', b"[]", b"\xff\xfe", b"null"])
def test_a_torn_record_is_passed_over(store: ResultStore, ground: Ground, torn: bytes) -> None:
    store.put(sample(SECOND), PNG, {})
    ground.place(name(sample(FIRST), "png"), PNG)
    ground.place(name(sample(FIRST), "json"), torn)

    assert store.find(FINGERPRINT) == sample(SECOND)


def test_a_record_of_another_result_is_passed_over(store: ResultStore, ground: Ground) -> None:
    store.put(sample(SECOND), PNG, {})
    ground.place(name(sample(FIRST), "png"), PNG)
    for stranger in (sample(SECOND), sample(FIRST, fingerprint=OTHER)):
        ground.place(name(sample(FIRST), "json"), stranger.model_dump_json().encode())

        assert store.find(FINGERPRINT) == sample(SECOND)


def test_a_record_of_a_newer_version_is_understood_and_kept_whole(
    store: ResultStore, ground: Ground
) -> None:
    newer = sample().model_dump(mode="json") | {"aesthetic_score": 0.7}
    ground.place(name(sample(), "png"), PNG)
    ground.place(name(sample(), "json"), json.dumps(newer).encode())

    found = store.find(FINGERPRINT)

    assert found is not None
    assert found.model_dump(mode="json") == newer


def test_an_inexact_picture_can_be_read_and_is_never_found(store: ResultStore) -> None:
    inexact = sample(FIRST).model_copy(update={"exact": False})
    store.put(inexact, PNG, {})

    assert b"".join(store.read(inexact)) == PNG
    assert store.find(FINGERPRINT) is None
    store.put(sample(SECOND), PNG, {})
    assert store.find(FINGERPRINT) == sample(SECOND)


def test_foreign_objects_are_ignored(store: ResultStore, ground: Ground) -> None:
    for foreign in ("notes.json", ".json", "a b.json", "0/1.json", "README", "0.json.bak"):
        ground.place(f"renders/{FINGERPRINT}/{foreign}", b"{}")
    store.put(sample(), PNG, {})

    assert store.find(FINGERPRINT) == sample()


def test_a_deleted_result_is_gone_and_the_others_stay(store: ResultStore, ground: Ground) -> None:
    store.put(sample(FIRST), PNG, {})
    store.put(sample(SECOND), PNG, {})

    store.delete(sample(FIRST))
    store.delete(sample(FIRST))

    assert store.find(FINGERPRINT) == sample(SECOND)
    assert ground.names() == {name(sample(SECOND), "png"), name(sample(SECOND), "json")}
    with pytest.raises(ResultGone):
        store.read(sample(FIRST))


def test_deleting_what_was_never_there_does_nothing(store: ResultStore) -> None:
    store.delete(sample())


def test_many_writers_of_one_token_leave_one_whole_picture(
    store: ResultStore, ground: Ground
) -> None:
    with ThreadPoolExecutor(64) as pool:
        list(pool.map(lambda _: store.put(sample(), PNG, {}), range(64)))

    assert store.find(FINGERPRINT) == sample()
    assert b"".join(store.read(sample())) == PNG
    assert ground.names() == {name(sample(), "png"), name(sample(), "json")}


def test_a_reader_never_sees_half_of_what_writers_and_a_deleter_do(store: ResultStore) -> None:
    def live(turn: int) -> None:
        store.put(sample(FIRST if turn % 2 else SECOND), PNG, {})
        found = store.find(FINGERPRINT)
        with suppress(ResultGone):  # deleted since
            assert found is None or b"".join(store.read(found)) == PNG
        store.delete(sample(FIRST))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, range(80)))

    assert store.find(FINGERPRINT) == sample(SECOND)


def test_two_farms_share_a_ground_under_two_prefixes(ground: Ground) -> None:
    ours, theirs = ground.store("farm-a/"), ground.store("farm-b/")

    ours.put(sample(), PNG, {})

    assert ours.find(FINGERPRINT) == sample()
    assert theirs.find(FINGERPRINT) is None
    assert ground.store().find(FINGERPRINT) is None
    assert all(each.startswith("farm-a/") for each in ground.names())


def test_hostile_names_are_refused_before_anything_happens(
    store: ResultStore, ground: Ground
) -> None:
    hostile = [sample(token) for token in HOSTILE_TOKENS]
    hostile += [sample(fingerprint=fingerprint) for fingerprint in HOSTILE_FINGERPRINTS]

    for each in hostile:
        for call in (lambda r: store.put(r, PNG, {}), store.read, store.delete):
            with pytest.raises(ValueError, match=r"not a (token|fingerprint)"):
                call(each)
    for fingerprint in HOSTILE_FINGERPRINTS:
        with pytest.raises(ValueError, match="not a fingerprint"):
            store.find(fingerprint)

    assert ground.names() == set()


def test_a_walk_sees_whole_results_and_what_is_left_of_uploads(
    store: ResultStore, ground: Ground
) -> None:
    started = time.time()
    store.put(sample(SECOND), PNG, {})
    store.put(sample(FIRST, fingerprint=OTHER), PNG, {})
    ground.place(name(sample(FIRST), "png"), PNG)
    ground.place(name(sample("0"), "json"), b"{}")

    found = list(store.walk())

    by_fingerprint = {fp: list(group) for fp, group in groupby(found, lambda k: k.fingerprint)}
    assert {fp: [(k.token, k.complete) for k in kept] for fp, kept in by_fingerprint.items()} == {
        FINGERPRINT: [("0", False), (FIRST, False), (SECOND, True)],
        OTHER: [(FIRST, True)],
    }
    whole = next(kept for kept in found if kept.complete)
    record = ground.fetch(name(sample(whole.token, fingerprint=whole.fingerprint), "json"))
    assert whole.size_bytes == len(PNG) + len(record)
    assert all(abs(kept.changed_at - started) < 60 for kept in found)


def test_a_walk_passes_strangers_by(store: ResultStore, ground: Ground) -> None:
    for foreign in (f"renders/{FINGERPRINT}/README", "renders/notes", "renders/x/y.png", "a.png"):
        ground.place(foreign, b"")

    assert list(store.walk()) == []


def test_a_walk_keeps_to_its_farm(ground: Ground) -> None:
    ground.store("farm-a/").put(sample(), PNG, {})

    assert len(list(ground.store("farm-a/").walk())) == 1
    assert list(ground.store("farm-b/").walk()) == []


def test_a_walk_comes_to_the_end_of_many(store: ResultStore, ground: Ground) -> None:
    tokens = [f"{number:04}" for number in range(520)]  # more than one page of 1,000 objects
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda token: store.put(sample(token, b""), b"", {}), tokens))

    assert [kept.token for kept in store.walk()] == tokens


def test_what_a_walk_found_can_be_deleted(store: ResultStore, ground: Ground) -> None:
    store.put(sample(), PNG, {})
    ground.place(name(sample(SECOND), "png"), PNG)

    for kept in list(store.walk()):
        store.delete(kept)

    assert ground.names() == set()


def test_a_check_leaves_nothing_behind(store: ResultStore, ground: Ground) -> None:
    store.check()

    assert ground.names() == set()
