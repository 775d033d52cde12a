"""What the service counts, for Prometheus."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

Counts = Callable[[], Mapping[str, int]]


class Metrics:
    """One service's counters. Times include the wait for an engine and a replay, as a client feels them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        made = self.registry
        self.step_s = Histogram("eto_env_step_seconds", "Steps that were taken.", buckets=SECONDS, registry=made)
        self.reset_s = Histogram("eto_env_reset_seconds", "Episodes that began.", buckets=SECONDS, registry=made)
        self.restore_s = Histogram("eto_env_restore_seconds", "Replays of a session in another engine.", buckets=SECONDS, registry=made)
        self.evictions = Counter("eto_env_evictions", "Engines that went from an idle session to one that waited.", registry=made)
        self.kills = Counter("eto_env_worker_ends", "Workers that ended before the service did, by reason.", ["reason"], registry=made)
        self.rejections = Counter("eto_env_rejections", "Requests that were answered with an error, by its code.", ["code"], registry=made)

    def watch(self, name: str, text: str, counts: Counts) -> None:
        """Report what `counts` gives, by state, whenever the page is asked for."""
        self.registry.register(_States(name, text, counts))

    def page(self) -> bytes:
        """Return the page in Prometheus's text format."""
        return generate_latest(self.registry)


class _States(Collector):
    def __init__(self, name: str, text: str, counts: Counts) -> None:
        self._name, self._text, self._counts = name, text, counts

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [GaugeMetricFamily(self._name, self._text, labels=["state"])]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._text, labels=["state"])
        for state, number in self._counts().items():
            family.add_metric([state], number)
        return [family]
