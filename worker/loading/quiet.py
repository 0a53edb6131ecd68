"""The libraries' own chatter, off: progress bars, and warnings that print the prompt."""

from __future__ import annotations

import logging

from shared.logs import take_over

# Each layer; kernels that were not built; at torchao's import, what torch thinks of its enums.
_CHATTY = ("bitsandbytes", "torchao", "torch.utils._pytree")


def quiet_libraries() -> None:
    """From now on in this process, also at their imports: errors only, as lines of ours, no bars."""
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)

    import diffusers
    import transformers
    from huggingface_hub.utils.tqdm import disable_progress_bars

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    take_over("torch", "diffusers", "transformers")
    disable_progress_bars()
