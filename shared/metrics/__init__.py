"""Every metric of the farm. Labels come from closed sets: never an id, a key or a prompt.

docs/metrics.md lists the series; `python -m tests.metrics` writes that list from this package.
"""

from shared.metrics.api import ApiMetrics
from shared.metrics.calls import CallMetrics, counted
from shared.metrics.chores import ChoresMetrics
from shared.metrics.effort import EffortMetrics
from shared.metrics.farm import StoreCollector
from shared.metrics.host import CardCollector, CardReading, HostCollector
from shared.metrics.page import Labelled, open_page, page
from shared.metrics.worker import WorkerMetrics

__all__ = [
    "ApiMetrics",
    "CallMetrics",
    "CardCollector",
    "CardReading",
    "ChoresMetrics",
    "EffortMetrics",
    "HostCollector",
    "Labelled",
    "StoreCollector",
    "WorkerMetrics",
    "counted",
    "open_page",
    "page",
]
