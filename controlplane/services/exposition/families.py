"""How figures become metrics of Prometheus: a gauge, a counter, an info each, and what isn't known is left out.

Runs in the web process. Names follow Prometheus's conventions (https://prometheus.io/docs/practices/naming/): base
units in the name, `_total` for what only grows, `_info` for a constant 1 with facts as labels.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

PREFIX = "pilothouse_"
Labelled = tuple[Mapping[str, str], Any]
"""Labels, and a figure: a number, a bool, a number as `events` writes it ("NaN"), or None where nobody knows."""


def gauge(name: str, text: str, labels: Iterable[str], samples: Iterable[Labelled], factor: float = 1.0) -> Metric:
    """What goes up and down. `factor` turns the product's unit into the base unit."""
    names = list(labels)
    family = GaugeMetricFamily(PREFIX + name, text, labels=names)
    for values, figure in samples:
        if (known := number(figure)) is not None:
            family.add_metric([values[label] for label in names], known * factor)
    return family


def counter(name: str, text: str, labels: Iterable[str], samples: Iterable[Labelled]) -> Metric:
    """What only grows; `name` without its `_total`."""
    names = list(labels)
    family = CounterMetricFamily(PREFIX + name, text, labels=names)
    for values, figure in samples:
        if (known := number(figure)) is not None:
            family.add_metric([values[label] for label in names], known)
    return family


def info(name: str, text: str, labels: Iterable[str], samples: Iterable[Mapping[str, Any]]) -> Metric:
    """A constant 1 whose labels are facts; `name` without its `_info`."""
    names = list(labels)
    family = InfoMetricFamily(PREFIX + name, text)
    for facts in samples:
        family.add_metric([], {label: "" if facts.get(label) is None else str(facts[label]) for label in names})
    return family


def number(figure: Any) -> float | None:
    """The figure as a number; None for what isn't one."""
    if figure is None:
        return None
    try:
        return float(figure)
    except (TypeError, ValueError):
        return math.nan if figure == "NaN" else None
