"""docs/loras.md knows every field of a LoRA's table and every code, and its example can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.catalog import load_catalog
from shared.loras import LoraEntry

PAGE = (Path(__file__).parents[2] / "docs" / "loras.md").read_text("utf-8")
CODES = {"lora_not_found", "lora_unusable", "unsupported_for_model"}


@pytest.mark.parametrize("name", sorted({*LoraEntry.model_fields, *CODES} - {"name"}))
def test_it_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_the_example_on_the_page_is_a_table_of_models_toml(tmp_path: Path) -> None:
    table = PAGE.split("```toml\n")[1].split("```")[0]
    shipped = Path(__file__).parents[2] / "shared" / "models.toml"
    (tmp_path / "models.toml").write_text(shipped.read_text("utf-8") + table, "utf-8")

    catalog = load_catalog(tmp_path / "models.toml")

    assert [one.name for one in catalog.loras_of(catalog.find("sd3.5-medium"))] == ["ink"]
