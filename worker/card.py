"""The worker's card as its driver sees it, through NVML. Without a driver there is none, and no fault."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import pynvml

from shared.metrics import CardReading

T = TypeVar("T")


def open_card(uuid: str | None, nvml: Any = pynvml) -> Callable[[], CardReading | None]:
    """Asks one card whenever it is called. `uuid` as torch says it; None: the worker has no card.

    Xid events are counted from here on, where the driver and the rights of this process allow it.
    """
    card = _find(uuid, nvml)
    if card is None:
        return lambda: None
    events = _listen(card, nvml)
    xids = 0

    def read() -> CardReading | None:
        nonlocal xids
        xids += _drain(events, nvml)
        return _read(card, nvml, xids)

    return read


def _find(uuid: str | None, nvml: Any) -> Any:
    if uuid is None:
        return None
    with suppress(nvml.NVMLError):
        nvml.nvmlInit()
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    return None


def _listen(card: Any, nvml: Any) -> Any:
    with suppress(nvml.NVMLError):
        events = nvml.nvmlEventSetCreate()
        nvml.nvmlDeviceRegisterEvents(card, nvml.nvmlEventTypeXidCriticalError, events)
        return events
    return None


def _drain(events: Any, nvml: Any) -> int:
    """How many came since the last look; never waits."""
    count = 0
    with suppress(nvml.NVMLError):  # a timeout: there are no more
        while events is not None:
            nvml.nvmlEventSetWait_v2(events, 0)
            count += 1
    return count


def _read(card: Any, nvml: Any, xids: int) -> CardReading:
    def ask(name: str, *args: int) -> Any:
        with suppress(nvml.NVMLError):
            return getattr(nvml, name)(card, *args)
        return None

    def ecc(kind: int) -> Any:
        return ask("nvmlDeviceGetTotalEccErrors", kind, nvml.NVML_VOLATILE_ECC)

    load, memory = ask("nvmlDeviceGetUtilizationRates"), ask("nvmlDeviceGetMemoryInfo")
    return CardReading(
        utilization=_scaled(load and load.gpu, 100),
        power_watts=_scaled(ask("nvmlDeviceGetPowerUsage"), 1000),
        power_limit_watts=_scaled(ask("nvmlDeviceGetEnforcedPowerLimit"), 1000),
        temperature_c=ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        used_bytes=memory and memory.used,
        total_bytes=memory and memory.total,
        ecc_corrected=ecc(nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
        ecc_uncorrected=ecc(nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        xids=xids,
    )


def _scaled(value: int | None, unit: int) -> float | None:
    return None if value is None else value / unit
