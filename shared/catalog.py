"""The models and LoRAs of one farm, as `models.toml` lists them."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.errors import InvalidOrder, ModelError
from shared.loras import LoraEntry
from shared.models import ModelEntry

# What clients of other services ask for when nobody told them a name: the default model, unless an
# entry of the farm is called so.
DEFAULT_ALIASES = (
    "dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5", "gpt-image-2",
    "chatgpt-image-latest", "stablediffusion",
)  # fmt: skip


class Catalog:
    """The models of one farm and their LoRAs; `find` folds aliases, and `names` has them all."""

    def __init__(
        self, entries: list[ModelEntry], default: str, loras: Sequence[LoraEntry] = ()
    ) -> None:
        self.entries = {entry.id: entry for entry in entries}
        self.names = {alias: entry for entry in entries for alias in (entry.id, *entry.aliases)}
        self.default = self.find(default)
        self.names = dict.fromkeys(DEFAULT_ALIASES, self.default) | self.names
        self.loras = {lora.name: lora for lora in loras}
        self._check_loras()

    def _check_loras(self) -> None:
        """Raises ModelError."""
        for lora in self.loras.values():
            if unknown := [name for name in lora.models if name not in self.entries]:
                raise ModelError(
                    f"the LoRA {lora.name} is for {unknown[0]}, which is no model's id"
                )
        files = [lora.sha256 for lora in self.loras.values()]
        for lora in self.loras.values():
            if files.count(lora.sha256) > 1:
                raise ModelError(f"the file of the LoRA {lora.name} stands in the list twice")

    def loras_of(self, entry: ModelEntry) -> list[LoraEntry]:
        """Those that an order for this model may name."""
        loras = self.loras.values() if entry.takes_loras else ()
        return [lora for lora in loras if entry.id in lora.models]

    def find(self, name: str) -> ModelEntry:
        """Raises InvalidOrder `model_not_found`."""
        try:
            return self.names[name]
        except KeyError:
            known = ", ".join(self.entries)
            message = f"there is no model {name[:100]!r}; this farm knows: {known}"
            raise InvalidOrder("model_not_found", message, "model") from None


def load_catalog(path: Path | None = None, default: str | None = None) -> Catalog:
    """Read `models.toml`, the shipped one unless `path` names another. Raises ModelError."""
    name = str(path or "the shipped models.toml")
    try:
        text = (path or resources.files("shared") / "models.toml").read_text("utf-8")
        table: dict[str, Any] = tomllib.loads(text)
        entries = [ModelEntry(id=key, **fields) for key, fields in table["models"].items()]
        loras = [LoraEntry(name=key, **fields) for key, fields in table.get("loras", {}).items()]
        return Catalog(entries, default or table["default"], loras)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"cannot read {name}: {error}") from error
    except KeyError as error:
        raise ModelError(f"{name} has no {error}") from error
    except (ValidationError, TypeError, AttributeError) as error:
        raise ModelError(f"{name} is not a list of models: {error}") from error
    except (InvalidOrder, ModelError) as error:
        raise ModelError(f"{name}: {error}") from error
