import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments, folder=ROOT, **env):
    # these tests may run under `make test`, whose own level and variables are not theirs
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env={**clean, **env}, capture_output=True, text=True
    )


def test_plain_make_explains_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)

    told = make().stdout

    assert sorted(line.split()[1] for line in told.splitlines()) == sorted(phony[1].split())


def test_variables_of_make_run_become_options():
    recipe = make(
        "-n", "run", "PORT=8123", "DATA_DIR=/some/my dir", "MODEL=tiny", "WORKERS=2"
    ).stdout

    last = recipe.splitlines()[-1]
    assert last.split(" up ")[1].split() == [
        "--model", "'tiny'", "--workers", "'2'", "--port", "'8123'",
        "--data-dir", "'/some/my", "dir'",
    ]  # fmt: skip


def test_a_host_that_the_shell_exports_does_not_open_the_farm_to_it():
    exported = make("-n", "run", HOST="0.0.0.0").stdout
    typed = make("-n", "run", "HOST=0.0.0.0").stdout

    assert "--host" not in exported
    assert "--host '0.0.0.0'" in typed


def test_a_python_that_does_not_fit_is_told_and_nothing_is_made(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)

    made = make(".venv/bin/python", f"PYTHON={old}", folder=tmp_path)

    assert made.returncode != 0
    assert "needs Python 3.11 to 3.13" in made.stdout
    assert not (tmp_path / ".venv").exists()
