"""What our own server counts, in Prometheus' text format."""

from collections.abc import Callable

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class ServerMetrics:
    """Counters of one application.

    Args:
      sizes: rows that a batch may have.
      queued: tells how many images wait.
      held_bytes: tells the bytes of bodies in memory.
      ready: tells whether all versions are loaded.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        queued: Callable[[], float],
        held_bytes: Callable[[], float],
        ready: Callable[[], float],
    ):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = here = CollectorRegistry()
        self._requests = Counter("urnet_requests", "Requests answered", ["route", "status"], registry=here)
        self._seconds = Histogram(
            "urnet_request_seconds", "Seconds from the first byte of a request to the last of its answer",
            ["route"], buckets=_SECONDS, registry=here,
        )  # fmt: skip
        self._images = Counter(
            "urnet_images", "Images answered; valid = false could not be read", ["valid"], registry=here
        )
        self._batches = Histogram(
            "urnet_batch_images", "Images that were computed at once", buckets=sizes, registry=here
        )
        self._batch_seconds = Histogram(
            "urnet_batch_seconds", "Seconds that a batch was computed", buckets=_SECONDS, registry=here
        )
        for name, text, tell in (
            ("urnet_queued_images", "Images that wait", queued),
            ("urnet_held_bytes", "Bytes of requests in memory", held_bytes),
            ("urnet_ready", "1 when all versions are loaded and warm", ready),
        ):
            Gauge(name, text, registry=here).set_function(tell)
        for valid in ("true", "false"):  # so that a rate can be taken before the first one
            self._images.labels(valid)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Counts a request that was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_images(self, valid: int, invalid: int) -> None:
        """Counts images that were answered."""
        self._images.labels("true").inc(valid)
        self._images.labels("false").inc(invalid)

    def count_batch(self, rows: int, seconds: float) -> None:
        """Counts what the model computed at once."""
        self._batches.observe(rows)
        self._batch_seconds.observe(seconds)

    def page(self) -> tuple[bytes, str]:
        """The text for Prometheus, and its type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
