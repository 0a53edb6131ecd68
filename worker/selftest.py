"""A worker whose renders failed in a row: is it the device, or were it the renders?"""

from __future__ import annotations

import logging

from shared.errors import DeviceFault
from shared.logs import event
from worker import exits
from worker.engines.port import Renderer

log = logging.getLogger("farm.worker")


def self_test(renderer: Renderer, worker: str, doubt: str) -> tuple[int, str]:
    """Render a picture of our own: (exit code, why), or (0, "") where the device still draws.

    Otherwise a client with orders that fail could send one worker after the other into quarantine.
    `doubt` says in words why it is asked.
    """
    try:
        renderer.warm_up()
    except DeviceFault as error:
        return exits.DEVICE_FAULT, f"{doubt}: {error}"
    except Exception as error:  # whatever it is, this process cannot render
        return exits.UNWELL, f"{doubt}, and so did its self-test: {error}"
    event(log, "self_test_passed", logging.WARNING, worker=worker, reason=doubt)
    return exits.OK, ""
