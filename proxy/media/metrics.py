"""What Prometheus sees of images and videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from accounting.records import RequestRecord
from accounting.service import Accountant
from proxy.tallies import Counters, Histograms

JOULES_PER_OUTPUT = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)

MakeCounters = Callable[[str, str, tuple[str, ...]], Counters]
MakeHistograms = Callable[[str, str, tuple[str, ...], tuple[float, ...]], Histograms]


class MediaMetrics:
    """Counts what requests brought that went well."""

    def __init__(
        self,
        counters: MakeCounters,
        histograms: MakeHistograms,
        payer: tuple[str, ...],
        engine: tuple[str, ...],
    ) -> None:
        self._outputs = counters("media_outputs", "Images and videos made.", (*payer, "kind"))
        self._seconds = counters("video_seconds", "Length of the videos made, as they are played.", payer)
        self._per_output = histograms(
            "joulegate_joules_per_media_output",
            "GPU energy of one image or video, in joules.",
            (*engine, "kind"),
            JOULES_PER_OUTPUT,
        )
        self._per_second = histograms(
            "joulegate_joules_per_video_second",
            "GPU energy of a video over its length, in joules per second.",
            engine,
            JOULES_PER_OUTPUT,
        )

    def ended(self, record: RequestRecord, payer: tuple[str, ...], engine: tuple[str, ...]) -> None:
        """Of a request whose status is ok."""
        media = record.media
        if media is None:
            return
        self._outputs.values[(*payer, media.kind)] += media.count
        energy_j = None if record.energy_uj is None else record.energy_uj / 1e6 / media.count
        if energy_j is not None:
            self._per_output.of((*engine, media.kind)).observe(energy_j)
        if media.kind == "video" and media.seconds:
            self._seconds.values[payer] += media.count * media.seconds
            if energy_j is not None:
                self._per_second.of(engine).observe(energy_j / media.seconds)


def jobs_now(accountant: Accountant) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "joulegate_jobs_in_flight",
        "Jobs, and what clients left, that servers work on or have waiting.",
        value=accountant.ledger.lasting_jobs,
    )
