"""Everything that Prometheus scrapes, as text. Runs in the web process.

It comes from rows of the data base alone, so a sick host delays nothing. A section that fails is left out, logged and
told (`pilothouse_exposition_section_success`), the others are served.
"""

import logging
import platform
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.exposition import choose_encoder

from controlplane.services.exposition.families import gauge, info
from controlplane.services.exposition.hosts import gpu_families, host_families
from controlplane.services.exposition.traffic import Traffic
from controlplane.services.exposition.work import (
    alert_families,
    energy_families,
    engine_families,
    job_families,
    run_families,
)

log = logging.getLogger(__name__)

SECTIONS: dict[str, Callable[[], Iterable[Metric]]] = {
    "hosts": host_families,
    "gpus": gpu_families,
    "jobs": job_families,
    "runs": run_families,
    "engines": engine_families,
    "energy": energy_families,
    "alerts": alert_families,
}


class Sections:
    """Collects every section anew. Prometheus's `Collector`."""

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        yield info("build", "What runs here.", ("version", "python_version"), [build()])
        outcomes = {}
        for name, section in SECTIONS.items():
            try:
                families = list(section())
            except Exception:  # a row that nobody foresaw must not hide all others
                log.exception("the metrics of %s can't be told", name)
                families = []
                outcomes[name] = False
            else:
                outcomes[name] = True
            yield from families
        yield gauge("exposition_section_success", "Whether a section of this page could be told: 1 or 0.", ("section",),
                    [({"section": name}, outcome) for name, outcome in outcomes.items()])  # fmt: skip


def build() -> dict[str, str]:
    """The versions that tell one build from another."""
    try:
        ours = version("pilothouse")
    except PackageNotFoundError:
        ours = "unknown"
    return {"version": ours, "python_version": platform.python_version()}


def exposition(traffic: Traffic, accept: str = "") -> tuple[bytes, str]:
    """The text and its content type, in the format that the scraper's `Accept` header asks for."""
    registry = CollectorRegistry()
    registry.register(Sections())
    registry.register(traffic.registry)
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
