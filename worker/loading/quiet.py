"""The libraries' own chatter, off: progress bars, and warnings that print the prompt."""

from __future__ import annotations

import diffusers
import huggingface_hub
import transformers


def quiet_libraries() -> None:
    """From now on in this process, errors only and no progress bars."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
