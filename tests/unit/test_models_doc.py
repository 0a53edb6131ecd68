"""docs/models.md knows every field of a model entry, and every size of the tiny model."""

from pathlib import Path

import pytest

from shared.catalog import load_catalog
from shared.models import ModelEntry
from worker.loading.tiny import SIZES

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")


@pytest.mark.parametrize("name", sorted({*ModelEntry.model_fields, *SIZES} - {"id"}))
def test_it_is_on_the_page(name):
    assert f"`{name}`" in PAGE


def test_the_example_on_the_page_is_a_models_file(tmp_path):
    example = tmp_path / "models.toml"
    example.write_text(PAGE.split("```toml\n")[1].split("```")[0])

    assert load_catalog(example).default.id == "medium"
