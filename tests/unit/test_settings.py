"""Settings: documented, checked, never silently misspelt, never shown when secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.settings import Settings, environment, load_settings, table, variable


def test_the_defaults_need_no_environment() -> None:
    settings = load_settings({})

    assert settings.redis_url.get_secret_value() == "redis://127.0.0.1:6379/0"
    assert settings.cache_dir == Path("data/models")


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(SettingsError, match=r"FARM_REDIS_ULR, did you mean FARM_REDIS_URL\?"):
        load_settings({"FARM_REDIS_ULR": "redis://x"})


def test_other_programs_variables_are_not_ours() -> None:
    assert load_settings({"PATH": "/bin", "FARMING": "yes"}) == load_settings({})


def test_an_empty_value_means_the_default() -> None:
    assert load_settings({"FARM_PORT": ""}).port == 8000


def test_a_bad_value_names_its_variable_and_hides_itself() -> None:
    with pytest.raises(SettingsError, match="FARM_PORT") as raised:
        load_settings({"FARM_PORT": "my-secret"})

    assert "my-secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["farm.example", "//farm.example", "https://", "javascript:1"])
def test_a_public_url_that_no_client_could_open_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="FARM_PUBLIC_URL"):
        load_settings({"FARM_PUBLIC_URL": url})


def test_secrets_are_not_shown() -> None:
    settings = load_settings({"FARM_API_KEYS": "alice:hunter2", "FARM_REDIS_URL": "redis://:pw@h"})

    assert "hunter2" not in repr(settings)
    assert ":pw@" not in repr(settings)


def test_a_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hf_hunter2\n")

    settings = load_settings({"FARM_HF_TOKEN_FILE": str(token)})

    assert settings.hf_token is not None
    assert settings.hf_token.get_secret_value() == "hf_hunter2"
    assert load_settings(environment(settings)) == settings


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"FARM_HF_TOKEN_FILE": "/no/such/file"}, "FARM_HF_TOKEN_FILE: cannot read /no/such/file"),
        ({"FARM_HF_TOKEN_FILE": "/dev/null", "FARM_HF_TOKEN": "hunter2"}, "both set"),
        ({"FARM_HF_TOKEN_FILE": "/dev/null"}, "/dev/null is empty"),
        ({"FARM_PORT_FILE": "/dev/null"}, "unknown setting FARM_PORT_FILE"),
    ],
)
def test_a_file_of_a_secret_that_cannot_count_is_named(given: dict[str, str], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault) as raised:
        load_settings(given)

    assert "hunter2" not in str(raised.value)


def test_the_file_of_api_keys_stays_a_setting_of_its_own(tmp_path: Path) -> None:
    settings = load_settings({"FARM_API_KEYS_FILE": str(tmp_path / "keys")})

    assert settings.api_keys_file == tmp_path / "keys"


def test_settings_travel_to_a_child_process() -> None:
    given = {"FARM_API_KEYS": "alice:hunter2", "FARM_S3_BUCKET": "b", "FARM_LEASE_S": "2.5"}
    settings = load_settings(given)

    assert load_settings(environment(settings)) == settings


def test_every_setting_is_explained_in_the_readme() -> None:
    readme = Path("README.md").read_text("utf-8")

    assert table() in readme
    assert all(field.description for field in Settings.model_fields.values())
    assert variable("port") == "FARM_PORT"
