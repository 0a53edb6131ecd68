"""`renderfarm keys` and `renderfarm audit` on a real Redis, and the API that hears of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from api.keyring import KeyRing
from cli.main import main
from shared.owners import open_office
from shared.settings import Settings, variable


class Cli:
    def __init__(self, url: str) -> None:
        self._env = {"FARM_REDIS_URL": url}

    def __call__(self, *args: str) -> Result:
        return CliRunner().invoke(main, args, env=self._env, prog_name="renderfarm")

    def keys(self) -> list[dict[str, Any]]:
        return list(json.loads(self("keys", "list", "--json", "--all").stdout))


@pytest.fixture
def url(redis_of: Any) -> str:
    return str(redis_of("valkey"))


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, url: str) -> Cli:
    for field in Settings.model_fields:
        monkeypatch.delenv(variable(field), raising=False)
    monkeypatch.setattr("getpass.getuser", lambda: "olga")
    return Cli(url)


@pytest.fixture
def ring(url: str) -> KeyRing:
    settings = Settings(redis_url=url)
    return KeyRing(settings, open_office(settings).keys)


def test_a_key_is_printed_once_and_opens_the_farm(cli: Cli, ring: KeyRing) -> None:
    made = cli("keys", "add", "alice", "--submits-per-min", "5", "--expires", "90d", "--note", "x")

    assert made.exit_code == 0
    key = made.stdout.strip()
    assert key.startswith("rf_")
    assert "not shown again" in made.stderr
    owner = ring.owner(key, outward=True)
    assert (owner.name, owner.admin, owner.limits.submits_per_min) == ("alice", False, 5)
    listed = cli("keys", "list")
    assert "alice" in listed.stdout
    assert key not in listed.stdout + json.dumps(cli.keys())
    assert cli.keys()[0]["expires_at"] - cli.keys()[0]["created_at"] == pytest.approx(90 * 86_400)


def test_a_revoked_key_is_off_the_list(cli: Cli, ring: KeyRing) -> None:
    cli("keys", "add", "alice", "--admin")
    key_id = cli.keys()[0]["id"]

    assert cli("keys", "revoke", key_id).exit_code == 0

    assert "there are no keys" in cli("keys", "list").stdout
    assert cli.keys()[0]["revoked_at"] is not None
    assert "revoked" in cli("keys", "list", "--all").stdout


def test_a_rotated_key_works_beside_its_successor_for_a_while(cli: Cli, ring: KeyRing) -> None:
    old = cli("keys", "add", "alice", "--scope", "read", "--max-steps", "9").stdout.strip()
    key_id = cli.keys()[0]["id"]

    fresh = cli("keys", "rotate", key_id, "--grace", "1h").stdout.strip()

    owners = [ring.owner(text, outward=True) for text in (old, fresh)]
    assert [(o.name, o.scopes, o.grant and o.grant.max_steps) for o in owners] == [
        ("alice", {"read"}, 9)
    ] * 2
    first, second = cli.keys()
    assert first["expires_at"] - second["created_at"] == pytest.approx(3600, abs=5)
    assert second["expires_at"] is None


def test_what_was_done_with_keys_is_in_the_audit_log(cli: Cli) -> None:
    cli("keys", "add", "alice")
    key_id = cli.keys()[0]["id"]
    cli("keys", "rotate", key_id)
    cli("keys", "revoke", key_id)

    acts = json.loads(cli("audit", "--json").stdout)

    assert [(act["actor"], act["what"], act["target"], act["owner"]) for act in acts] == [
        ("operator:olga", what, key_id, "alice")
        for what in ("key.revoked", "key.rotated", "key.added")
    ]
    assert "key.added" in cli("audit", "--limit", "3").stdout.replace("\n", "")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("keys", "add", "a b"), "owner"),
        (("keys", "add", "alice", "--scope", "admin"), "no scope admin"),
        (("keys", "add", "alice", "--weight", "0"), "weight"),
        (("keys", "add", "alice", "--expires", "soon"), "soon"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(cli: Cli, args: tuple[str, ...], told: str) -> None:
    refused = cli(*args)

    assert refused.exit_code == 2
    assert told in refused.stderr
    assert cli.keys() == []


@pytest.mark.parametrize("command", ["revoke", "rotate"])
def test_an_unknown_key_is_said_to_be_none(cli: Cli, command: str) -> None:
    refused = cli("keys", command, "key_nobody")

    assert refused.exit_code == 1
    assert "no valid key of this id" in refused.stderr


def test_an_empty_audit_log_says_so(cli: Cli) -> None:
    assert "nothing was done yet" in cli("audit").stdout
