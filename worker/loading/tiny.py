"""A tiny SD3.5 of random weights, built from a seed: the true layout, and pictures of noise."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ModelError

VERSION = 1  # raise it when the same size and seed would make other weights
ABOUT = "README.txt"


@dataclass(slots=True, frozen=True)
class Size:
    """How much work one step and one decode are. The first `dual` layers have a second attention."""

    layers: int
    dual: int
    heads: int  # of 16
    vae_channels: tuple[int, int, int, int]


SIZES = {
    "small": Size(1, 1, 2, (4, 4, 4, 4)),
    "normal": Size(5, 2, 6, (8, 16, 16, 16)),
    "large": Size(24, 13, 10, (16, 32, 32, 32)),  # Medium's true depth
}


def build(folder: Path, *, size: str = "normal", seed: int = 0) -> Path:
    """Make a complete diffusers folder with SD3.5 Medium's layout; `folder` again.

    The safetensors are byte-identical for the same size and seed. Built aside and renamed into
    place: a half-made folder is never seen, and of two builders one wins. A folder that holds this
    very model already is left as it is. Raises ModelError when it holds anything else.

    The reference render (256 x 256, 8 steps, guidance 4.5, T5 length 77, one CPU thread) takes
    about 40 ms (small), 300 ms (normal) and 2.8 s (large); the folder has 3, 12 and 102 MB.
    """
    if size not in SIZES:
        raise ModelError(f"there is no tiny model of size {size!r}; sizes are {', '.join(SIZES)}")
    about = _about(size, seed)
    if _holds(folder, about):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as aside:
            made = Path(aside) / "model"
            _save(made, size, seed)
            (made / ABOUT).write_text(about, "utf-8")
            made.rename(folder)
    except Exception as error:  # a full disk has another class in each library
        if not _holds(folder, about):  # it does where another builder was first
            raise ModelError(f"{folder} cannot be written: {error}") from error
    return folder


def _holds(folder: Path, about: str) -> bool:
    """True if the model that `about` describes lies there. Raises ModelError for anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    note = folder / ABOUT
    if note.is_file() and note.read_text("utf-8") == about:
        return True
    raise ModelError(f"{folder} is in use: it is not empty and does not hold this tiny model")


def _about(size: str, seed: int) -> str:
    return (
        "Tiny SD3.5: the layout of Stable Diffusion 3.5 Medium with random weights.\n"
        "It was never trained: whatever it draws is noise. Made to test a render farm.\n"
        f"version {VERSION}, size {size}, seed {seed}\n"
    )


def _save(folder: Path, size: str, seed: int) -> None:
    from worker.loading.quiet import quiet_libraries

    quiet_libraries()  # before the rest is imported: they talk at import, too
    from worker.loading import tiny_parts, tokenizers

    pipe = tiny_parts.pipeline(SIZES[size], seed)
    pipe.save_pretrained(folder)
    for name in ("tokenizer", "tokenizer_2"):
        tokenizers.use_clip_files(folder / name, getattr(pipe, name))
    (folder / "text_encoder_3" / "model.safetensors").unlink()  # in shards, as SD3.5's own
    pipe.text_encoder_3.save_pretrained(folder / "text_encoder_3", max_shard_size="300KB")
