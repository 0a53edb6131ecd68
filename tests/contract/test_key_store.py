"""One contract over both stores of keys and both audit logs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from shared.errors import KeyNotFound, StoreUnavailable
from shared.keys import KEYS
from shared.owners import Office, office_in_memory, open_office
from shared.owners.keys import Grant, Key, digest, make
from shared.owners.port import Act
from shared.owners.redis_owners import RedisKeyStore
from shared.settings import Settings
from shared.store.address import connect

NOW = 1000.0


@pytest.fixture(params=["memory", "valkey", "redis"])
def office(request: pytest.FixtureRequest) -> Iterator[Office]:
    if request.param == "memory":
        yield office_in_memory()
        return
    yield open_office(Settings(redis_url=request.getfixturevalue("redis_of")(request.param)))


def key_of(owner: str = "alice", now: float = NOW, **grant: object) -> Key:
    return make(Grant.model_validate({"owner": owner, **grant}), now)[1]


def stored(office: Office) -> list[Key]:
    found = office.keys.read()
    assert found is not None
    return list(found.keys)


def test_a_key_comes_back_as_it_was_made(office: Office) -> None:
    made = [
        key_of("bob", NOW, role="admin", scopes=frozenset({"read", "admin"}), weight=2.5,
               max_priority="low", submits_per_min=0, max_queued=7, max_queued_gpu_s=1.5,
               max_side_px=512, max_pixels=99, max_steps=4, note="the press"),
        key_of("alice", NOW + 1),
    ]  # fmt: skip
    for key in reversed(made):
        office.keys.add(key)

    assert stored(office) == made


def test_nothing_is_read_again_until_something_changes(office: Office) -> None:
    before = office.keys.read()
    assert before is not None
    assert office.keys.read(before.version) is None

    office.keys.add(key_of())

    after = office.keys.read(before.version)
    assert after is not None
    assert len(after.keys) == 1
    assert office.keys.read(after.version) is None


def test_a_revoked_key_stays_revoked_since_the_first_time(office: Office) -> None:
    key = key_of()
    office.keys.add(key)

    first, again = office.keys.revoke(key.id, NOW + 5), office.keys.revoke(key.id, NOW + 9)

    assert first == again == stored(office)[0]
    assert first.revoked_at == NOW + 5
    assert not first.valid(NOW + 5)


def test_a_rotated_key_ends_after_its_grace(office: Office) -> None:
    old, fresh = key_of(), key_of(now=NOW + 1)
    office.keys.add(old)

    ended = office.keys.rotate(old.id, fresh, NOW + 60)

    assert stored(office) == [ended, fresh]
    assert ended.valid(NOW + 59)
    assert not ended.valid(NOW + 60)


def test_a_rotation_never_lengthens_a_life(office: Office) -> None:
    grant = Grant(owner="alice")
    _, old = make(grant, NOW, expires_at=NOW + 10)
    office.keys.add(old)

    assert office.keys.rotate(old.id, key_of(), NOW + 60).expires_at == NOW + 10


def test_only_a_valid_key_of_the_store_can_be_changed(office: Office) -> None:
    revoked = key_of()
    office.keys.add(revoked)
    office.keys.revoke(revoked.id, NOW)

    for key_id in (revoked.id, "key_nobody"):
        with pytest.raises(KeyNotFound):
            office.keys.rotate(key_id, key_of(), NOW)
    with pytest.raises(KeyNotFound):
        office.keys.revoke("key_nobody", NOW)
    assert len(stored(office)) == 1


def test_the_last_use_is_remembered(office: Office) -> None:
    key = key_of()
    office.keys.add(key)

    office.keys.used(key.id, NOW + 7)

    assert stored(office)[0].last_used_at == NOW + 7


def test_a_rotation_and_a_revocation_at_once_leave_the_key_revoked(redis_server: str) -> None:
    """Whichever comes first, the other sees it: no write is lost."""
    store = open_office(Settings(redis_url=redis_server)).keys
    for _ in range(20):
        key = key_of()
        store.add(key)

        def revoke(key_id: str = key.id) -> None:
            store.revoke(key_id, NOW)

        thread = threading.Thread(target=revoke)
        thread.start()
        with contextlib.suppress(KeyNotFound):
            store.rotate(key.id, key_of(), NOW + 60)
        thread.join()
        found = store.read()
        assert found is not None
        assert [k.revoked_at for k in found.keys if k.id == key.id] == [NOW]


def test_redis_holds_no_key_in_plain(redis_server: str) -> None:
    client = connect(redis_server, patience_s=2)
    text, key = make(Grant(owner="alice"), NOW)
    RedisKeyStore(client).add(key)

    kept = client.hgetall(KEYS["keys"])
    assert list(kept) == [digest(text)]
    assert text not in str(kept)
    assert text.startswith("rf_")
    assert len(text) == 46
    client.close()


# ------------------------------------------------------------------------------------ audit log


def test_acts_are_kept_the_newest_first(office: Office) -> None:
    begun = time.time()
    for number in range(5):
        office.audit.record(Act(actor="root", key="key_1", what="worker.drained", target=f"w{number}",
                                owner="alice", request_id="req_1"))  # fmt: skip

    acts = office.audit.acts(limit=3)
    rest = office.audit.acts(limit=3, before=acts[-1].id)

    assert [act.target for act in acts + rest] == ["w4", "w3", "w2", "w1", "w0"]
    assert (acts[0].actor, acts[0].key, acts[0].owner) == ("root", "key_1", "alice")
    assert begun - 1 < acts[0].at < time.time() + 1
    assert [act.id for act in acts + rest] == sorted({a.id for a in acts + rest}, reverse=True)


def test_a_store_that_is_away_says_so() -> None:
    away = open_office(Settings(redis_url="redis://127.0.0.1:1/0"), patience_s=0.1)

    with pytest.raises(StoreUnavailable):
        away.keys.read()
    with pytest.raises(StoreUnavailable):
        away.audit.acts()
