"""The libraries' own chatter, off: progress bars, and warnings that print the prompt."""

from __future__ import annotations

import logging

import diffusers
import transformers
from huggingface_hub.utils.tqdm import disable_progress_bars

from shared.logs import take_over

# A line for each layer; kernels that were not built; how torchao registers its constants.
NOISY = ("bitsandbytes", "torchao", "torch.utils._pytree")


def quiet_libraries() -> None:
    """From now on in this process, also at their imports: errors only, as lines of ours, no bars."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    take_over("torch", "diffusers", "transformers")
    disable_progress_bars()
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
