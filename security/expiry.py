"""When certificates run out, as a metric: ``headwater_certificate_not_after_timestamp_seconds``.

Owns the metric and its three labels: ``identity`` (the principal, or the authority's name), ``file``, and ``source``:
``disk`` is read at each scrape, so that a renewed file shows; ``loaded`` is what was there when the process began,
which is what a client of Kafka goes on to show until the process is started again. What looks for the first of them to
run out looks at both. A file that cannot be read is ``headwater_certificate_unreadable`` 1. Never tells a key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from security.certificate_dates import Dates, read_dates
from security.errors import SecretError
from security.secrets import read_bounded
from security.tls_files import CA, CERTIFICATE

NAME = "headwater_certificate_not_after_timestamp_seconds"
_LABELS = ("identity", "file", "source")


def watch_expiry(
    registry: CollectorRegistry, folders: Iterable[Path | None], files: Iterable[Path | None] = ()
) -> None:
    """Show of each identity's folder when its certificate and its authorities run out, and of other ``files`` with
    certificates (PEM). None, or twice the same one, is fine; so are files that come later.

    Raises:
        ValueError: the registry shows some already; one call takes all folders of a process.
    """
    own = {folder.absolute() for folder in folders if folder is not None}
    found = [file for folder in sorted(own) for file in _files(folder)]
    found += [file.absolute() for file in files if file is not None]
    if found:
        registry.register(_Expiry(tuple(dict.fromkeys(found))))


class _Expiry(Collector):
    def __init__(self, files: tuple[Path, ...]) -> None:
        self._files = files
        self._loaded = [(certificate, file) for file in self._files for certificate in _read(file) or ()]

    def describe(self) -> Iterator[Metric]:
        """Tells the registry the names without looking at the files."""
        yield self._not_after()
        yield self._unreadable()

    def collect(self) -> Iterator[Metric]:
        not_after, unreadable = self._not_after(), self._unreadable()
        found = [(certificate, file, "loaded") for certificate, file in self._loaded]
        for file in self._files:
            certificates = _read(file)
            unreadable.add_metric((str(file),), float(certificates is None))
            found += [(certificate, file, "disk") for certificate in certificates or ()]
        first: dict[tuple[str, str, str], float] = {}
        for certificate, file, source in found:
            labels = (certificate.name, str(file), source)
            # Of two of one name the first to run out; Prometheus takes a name once only.
            first[labels] = min(certificate.not_after.timestamp(), first.get(labels, float("inf")))
        for labels, moment in first.items():
            not_after.add_metric(labels, moment)
        yield not_after
        yield unreadable

    @staticmethod
    def _not_after() -> GaugeMetricFamily:
        return GaugeMetricFamily(NAME, "When a certificate runs out, in seconds since 1970.", labels=_LABELS)

    @staticmethod
    def _unreadable() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "headwater_certificate_unreadable",
            "1 if there is no certificate to be read in a file where one should be.",
            labels=("file",),
        )


def _files(folder: Path) -> list[Path]:
    """What should be there: who only serves (HTTPS) may have no authority beside the certificate."""
    served = (folder / CERTIFICATE).exists() and not (folder / CA).exists()
    return [folder / CERTIFICATE] if served else [folder / CERTIFICATE, folder / CA]


def _read(file: Path) -> list[Dates] | None:
    try:
        return read_dates(read_bounded(file))
    except (SecretError, ValueError):
        return None
