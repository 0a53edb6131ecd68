import pytest
from click.testing import CliRunner

from cli.main import main
from cli.settings import overridden
from shared.errors import SettingsError
from shared.settings import load_settings


def test_an_option_wins_over_the_variable_and_none_changes_nothing():
    settings = load_settings({"FARM_PORT": "8123", "FARM_HOST": "::1"})

    changed = overridden(settings, port=9000, host=None)

    assert (changed.port, changed.host) == (9000, "::1")


def test_values_in_force_show_no_password():
    farm = {"FARM_HF_ENDPOINT": "https://me:hunter2@mirror.example", "FARM_API_KEYS": "a:hunter2"}

    shown = CliRunner().invoke(main, ["settings", "--values"], env=farm).stdout

    assert "mirror.example" in shown
    assert "hunter2" not in shown


def test_what_nobody_set_stays_unset():
    settings = load_settings({"FARM_API_KEYS": "alice:wonder"})

    changed = overridden(settings, port=9000)

    assert changed.model_fields_set == {"api_keys", "port"}
    assert changed.api_keys == settings.api_keys


def test_an_impossible_option_is_a_settings_error():
    with pytest.raises(SettingsError, match="FARM_PORT"):
        overridden(load_settings({}), port=-1)
