import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from cli.main import COMMANDS, main
from shared.settings import Settings, variable


@pytest.fixture
def farm(monkeypatch):
    """Run `renderfarm ...` with no setting but those given."""

    def run(*args, **env):
        return CliRunner().invoke(main, args, env=env, prog_name="renderfarm")

    for field in Settings.model_fields:
        monkeypatch.delenv(variable(field), raising=False)
    return run


def test_help_names_every_command_and_imports_neither_side():
    code = (
        "import sys; from cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: print([m for m in ('torch', 'fastapi', 'celery', 'diffusers') if m in sys.modules])"
    )

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.rstrip().endswith("[]")
    for name in COMMANDS:
        assert f"\n  {name} " in told.stdout


@pytest.fixture
def without_deploy(monkeypatch):
    """As in an image, which has no `deploy`."""
    for name in [n for n in sys.modules if n == "cli.up" or n.split(".")[0] == "deploy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "deploy", None)


def test_help_leaves_out_what_this_installation_cannot_do(farm, without_deploy):
    output = farm("--help").output

    assert "\n  up " not in output
    assert "\n  api " in output


def test_a_command_that_this_installation_lacks_is_one_line(farm, without_deploy):
    result = farm("up")

    assert result.exit_code == 1
    assert "needs the module deploy" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def every_command():
    """`("up",)`, `("models", "list")`, ...: the words of each command."""
    for name in COMMANDS:
        command = main.get_command(None, name)
        if isinstance(command, click.Group):
            yield from ((name, inner) for inner in command.commands)
        else:
            yield (name,)


@pytest.mark.parametrize("words", list(every_command()), ids=" ".join)
def test_the_help_of_every_command_has_an_example_that_calls_it(farm, words):
    result = farm(*words, "--help")

    assert result.exit_code == 0
    assert f"renderfarm {' '.join(words)}" in result.output.partition("Example:")[2]


def test_version_is_told(farm):
    assert "0.1.0" in farm("--version").output


def test_an_unknown_setting_is_one_line_and_code_2(farm):
    result = farm("settings", "--values", FARM_PROT="1")

    assert result.exit_code == 2
    assert result.stderr == "renderfarm: unknown setting FARM_PROT, did you mean FARM_PORT?\n"


def test_debug_keeps_the_traceback(farm):
    result = farm("--debug", "settings", "--values", FARM_PROT="1")

    assert type(result.exception).__name__ == "SettingsError"


def test_log_level_debug_keeps_the_traceback(farm):
    result = farm("worker", "--model", "nonsense", FARM_LOG_LEVEL="DEBUG")

    assert type(result.exception).__name__ == "InvalidOrder"


def test_an_unknown_model_is_code_2_and_names_the_known(farm):
    result = farm("worker", "--model", "nonsense")

    assert result.exit_code == 2
    assert "tiny" in result.stderr


def test_a_models_file_that_is_not_there_is_code_1(farm):
    result = farm("worker", FARM_MODELS_FILE="nowhere.toml")

    assert result.exit_code == 1
    assert "nowhere.toml" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_settings_lists_every_variable(farm):
    output = farm("settings").output

    assert all(variable(field) in output for field in Settings.model_fields)


def test_values_show_what_is_in_force_but_no_secret(farm):
    result = farm("settings", "--values", FARM_PORT="8123", FARM_API_KEYS="alice:wonder")

    assert "FARM_PORT=8123\n" in result.output
    assert "FARM_HOST=127.0.0.1\n" in result.output
    assert "FARM_S3_BUCKET=\n" in result.output
    assert "wonder" not in result.output


def test_an_option_overrides_its_setting_and_is_checked_like_it(farm):
    result = farm("api", "--port", "70000", FARM_PORT="8123")

    assert result.exit_code == 2
    assert "FARM_PORT" in result.stderr
