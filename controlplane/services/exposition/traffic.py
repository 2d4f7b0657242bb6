"""HTTP requests, counted as they are answered. Runs in the web process; each process counts its own.

`seconds` is the time until the answer begins: a stream of tokens may go on for minutes after that.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SURFACES = (
    ("/api/v1/", "openai"),
    ("/v1/", "openai"),
    ("/api/", "api"),
    ("/static/", "static"),
    ("/metrics", "metrics"),
)


class Traffic:
    """The counters of one web process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "pilothouse_http_requests", "HTTP requests by method, class of the answer's status, and part of the site.",
            ["method", "status", "surface"], registry=self.registry,
        )  # fmt: skip
        self._durations = Histogram(
            "pilothouse_http_request_duration_seconds", "Time until the answer to a request begins.",
            ["method", "surface"], buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip

    def count(self, method: str, path: str, status: int, seconds: float) -> None:
        """Adds an answered request. Whatever a client makes up becomes one of a few labels."""
        verb, part = method if method in METHODS else "other", surface(path)
        self._requests.labels(verb, f"{status // 100}xx", part).inc()
        self._durations.labels(verb, part).observe(seconds)


def surface(path: str) -> str:
    """The part of the site that an address belongs to."""
    return next((word for start, word in SURFACES if path.startswith(start)), "page")
