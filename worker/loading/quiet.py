"""The libraries' own chatter, off: progress bars, and warnings that print the prompt."""

from __future__ import annotations

import logging

# Each layer; kernels that were not built; at torchao's import, what torch thinks of its enums.
_CHATTY = ("bitsandbytes", "torchao", "torch.utils._pytree")


def quiet_libraries() -> None:
    """From now on in this process, errors only and no progress bars."""
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)

    import diffusers
    import transformers
    from huggingface_hub.utils.tqdm import disable_progress_bars

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    disable_progress_bars()
