"""The copy of all keys that an API process holds: how soon it sees a change, what an outage does."""

from __future__ import annotations

import threading

import pytest

from api.errors import Problem
from api.keyring import EAGER_S, FRESH_S, RETRY_S, STALE_S, USED_S, KeyRing
from shared.errors import SettingsError, StoreUnavailable
from shared.owners.keys import Grant, Key, digest, make
from shared.owners.memory import MemoryKeyStore
from shared.owners.port import Snapshot
from shared.settings import Settings
from tests.waiting import wait_until


class FakeStore(MemoryKeyStore):
    """A store of keys that can be away; it counts who asks."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.asked = 0
        self.hold: threading.Event | None = None

    def read(self, seen: str | None = None) -> Snapshot | None:
        self.asked += 1
        if self.hold:
            assert self.hold.wait(5)
        if self.away:
            raise StoreUnavailable
        return super().read(seen)


class Room:
    """A ring, its store, and the time, which only the test moves."""

    def __init__(self, **settings: object) -> None:
        self.now = 1000.0
        self.store = FakeStore()
        self.ring = KeyRing(Settings.model_validate(settings), self.store, lambda: self.now)
        self.ring._copy.clock = lambda: self.now

    def add(self, owner: str = "alice", **grant: object) -> tuple[str, Key]:
        text, key = make(Grant.model_validate({"owner": owner, **grant}), self.now)
        self.store.add(key)
        return text, key

    def ask(self, text: str | None, *, outward: bool = False) -> str:
        """The owner's name, or the code of the refusal."""
        try:
            return self.ring.owner(text, outward=outward).name
        except Problem as problem:
            return problem.code
        except StoreUnavailable:
            return "store_unavailable"


@pytest.fixture
def room() -> Room:
    return Room()


def test_a_new_key_works_within_a_moment_of_the_last_look(room: Room) -> None:
    room.add("bob")
    assert room.ask("rf_wrong") == "invalid_api_key"
    text, _ = room.add()

    room.now += EAGER_S + 0.01

    assert room.ask(text) == "alice"


def test_a_revoked_key_is_refused_within_seconds(room: Room) -> None:
    text, key = room.add()
    assert room.ask(text) == "alice"
    room.store.revoke(key.id, room.now)

    room.now += FRESH_S

    assert room.ask(text) == "invalid_api_key"


def test_a_known_key_costs_one_look_in_two_seconds(room: Room) -> None:
    text, _ = room.add()

    for _ in range(100):
        room.ask(text)
        room.now += FRESH_S / 50

    assert 2 <= room.store.asked <= 3


def test_wrong_keys_cost_few_looks_and_no_memory(room: Room) -> None:
    room.add()

    for number in range(500):
        assert room.ask(f"rf_guess{number}") == "invalid_api_key"

    assert room.store.asked == 1
    assert len(room.ring._copy.keys) == 1


def test_an_expired_key_is_refused_at_its_second(room: Room) -> None:
    text, key = make(Grant(owner="alice"), room.now, expires_at=room.now + 1)
    room.store.add(key)
    assert room.ask(text) == "alice"

    room.now += 1

    assert room.ask(text) == "invalid_api_key"


def test_through_an_outage_known_keys_work_and_unknown_ones_are_not_called_wrong(
    room: Room,
) -> None:
    text, _ = room.add()
    assert room.ask(text) == "alice"
    room.store.away = True

    room.now += 60

    assert room.ask(text) == "alice"
    assert room.ask("rf_perhaps-new") == "store_unavailable"
    assert room.ask(None) == "missing_api_key"  # that this farm has keys is known


def test_an_outage_ends_the_belief_after_a_quarter_of_an_hour(room: Room) -> None:
    text, _ = room.add()
    room.ask(text)
    room.store.away = True
    room.now += STALE_S - 1
    assert room.ask(text) == "alice"

    room.now += 1 + RETRY_S

    assert room.ask(text) == "store_unavailable"
    room.store.away = False
    room.now += RETRY_S
    assert room.ask(text) == "alice"


def test_a_store_that_is_away_is_asked_once_a_second(room: Room) -> None:
    room.store.away = True

    answers = {room.ask("rf_any") for _ in range(50)}

    assert answers == {"store_unavailable"}
    assert room.store.asked == 1
    room.now += RETRY_S
    room.ask("rf_any")
    assert room.store.asked == 2


def test_keys_of_the_settings_need_no_store() -> None:
    room = Room(api_keys="alice:alice-key")
    room.store.away = True

    assert room.ask("alice-key") == "alice"
    assert room.ask(None) == "missing_api_key"
    assert room.ask("rf_perhaps-new") == "store_unavailable"


def test_no_keys_anywhere_is_an_open_farm_on_loopback_only(room: Room) -> None:
    assert room.ask(None) == "anonymous"
    assert room.ask("whatever-a-client-sends") == "anonymous"
    assert room.ask(None, outward=True) == "missing_api_key"


def test_nobody_is_anonymous_before_the_store_has_said_that_it_has_no_keys(room: Room) -> None:
    room.store.away = True

    assert room.ask(None) == "store_unavailable"


def test_a_farm_that_had_keys_never_opens_again(room: Room) -> None:
    """Redis emptied, behind a proxy on the same machine: the world must not become an admin."""
    text, _ = room.add()
    assert room.ask(text) == "alice"
    room.store._keys.clear()
    room.store._version += 1

    room.now += FRESH_S

    assert room.ask(None) == "missing_api_key"
    assert room.ask(text) == "invalid_api_key"


def test_revoking_the_last_key_does_not_open_the_farm(room: Room) -> None:
    _, key = room.add()
    room.store.revoke(key.id, room.now)

    assert room.ask(None) == "missing_api_key"


def test_the_last_use_is_told_now_and_then(room: Room) -> None:
    text, key = room.add()

    def told() -> float | None:
        return room.store._keys[key.id].last_used_at

    room.ask(text)
    room.now += FRESH_S
    room.ask(text)
    first = told()
    assert first == 1000.0
    room.now += USED_S + 1
    room.ask(text)
    room.now += FRESH_S
    room.ask(text)
    assert told() == 1000.0 + FRESH_S + USED_S + 1


def test_while_one_asks_the_store_others_with_known_keys_do_not_wait(room: Room) -> None:
    text, _ = room.add()
    room.ask(text)
    room.now += FRESH_S
    room.store.hold = threading.Event()
    asked = room.store.asked
    thread = threading.Thread(target=room.ask, args=(text,))
    thread.start()
    wait_until(lambda: room.store.asked > asked)

    assert room.ask(text) == "alice"  # and does not hang

    room.store.hold.set()
    thread.join(5)
    assert room.store.asked == asked + 1


def test_what_a_key_does_not_say_the_farm_says() -> None:
    room = Room(submits_per_min=5, max_queued=6, max_queued_gpu_s=7.0)
    plain, _ = room.add("alice")
    special, _ = room.add("bob", submits_per_min=0, max_queued=60)

    limits = [room.ring.owner(text, outward=False).limits for text in (plain, special)]

    assert [(x.submits_per_min, x.max_queued, x.max_queued_gpu_s) for x in limits] == [
        (5, 6, 7.0), (0, 60, 7.0),
    ]  # fmt: skip


# ------------------------------------------------------------------------------ a file of keys


def write(path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


@pytest.fixture
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.owners.given.LOOK_S", 0.0)


def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path, look_at_once: None) -> None:
    path = tmp_path / "keys"
    write(path, "# for the press\n\nalice:first-key\n  root:root-key:admin\n")
    room = Room(api_keys_file=path)
    assert (room.ask("first-key"), room.ask("root-key")) == ("alice", "root")

    write(path, "alice:second-key\n")

    assert (room.ask("first-key"), room.ask("second-key")) == ("invalid_api_key", "alice")


@pytest.mark.parametrize("damage", ["alice first-key", "alice:x\nbob:x", "\ud800"])
def test_a_file_that_went_bad_or_away_changes_nothing(
    tmp_path, look_at_once: None, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    write(path, "alice:first-key")
    room = Room(api_keys_file=path)

    path.write_bytes(damage.encode("utf-8", "surrogatepass"))
    assert room.ask("first-key") == "alice"
    path.unlink()
    assert room.ask("first-key") == "alice"

    assert "first-key" not in caplog.text
    assert [record.message for record in caplog.records] == ["keys_not_read"] * 2


def test_toml_has_every_field_of_a_key(tmp_path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(
        f"""
        [[keys]]
        owner = "alice"
        key = "alice-key"
        weight = 2
        max_priority = "low"
        submits_per_min = 600
        max_steps = 30
        [[keys]]
        owner = "root"
        sha256 = "{digest("root-key")}"
        role = "admin"
        scopes = ["admin"]
        """
    )
    room = Room(api_keys_file=path)

    alice = room.ring.owner("alice-key", outward=False)
    root = room.ring.owner("root-key", outward=False)

    assert (alice.name, alice.limits.submits_per_min, alice.admin) == ("alice", 600, False)
    assert alice.grant is not None
    assert (alice.grant.weight, alice.grant.max_priority, alice.grant.max_steps) == (2, "low", 30)
    assert (root.name, root.admin, root.scopes) == ("root", True, {"admin"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[keys]]\nowner = "a"\nkey = "secret"\nwight = 2', "key 1: wight"),
        ('[[keys]]\nowner = "a b"\nkey = "secret"', "key 1: owner"),
        ('[[keys]]\nowner = "a"', "key 1 needs `key` or `sha256`"),
        ('[[keys]]\nowner = "a"\nkey = "secret"\nsha256 = "secret"', "not both"),
        ('[[keys]]\nowner = "a"\nsha256 = "secret"', "key 1: sha256"),
        ('[[keys]]\nowner = "a"\nkey = "secret"\nscopes = ["admin"]', "no scope admin"),
        ('[[keys]]\nowner = "a"\nkey = "secret"\nrole = "secret"', "key 1: role"),
        ('keys = "secret"', "not an array of tables"),
        ('secret = [', "is not TOML"),
        ('[[keys]]\nowner = "a"\nkey = "secret\n', "is not TOML"),
    ],
)  # fmt: skip
def test_bad_toml_refuses_to_start_and_shows_no_key(tmp_path, text: str, told: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)

    with pytest.raises(SettingsError) as refused:
        Room(api_keys_file=path)

    assert told in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_missing_file_refuses_to_start(tmp_path) -> None:
    with pytest.raises(SettingsError, match="FARM_API_KEYS_FILE cannot be read"):
        Room(api_keys_file=tmp_path / "none")
