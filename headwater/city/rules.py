"""The rules of a sensor city for the job `outliers`: what is usual of each metric, and when it is to alert. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.devices.metrics import Metric

#: So many standard deviations from the mean a reading is an outlier: those that are made are beyond six, and one of
#: the others is as far in a hundred thousand.
THRESHOLD = 4.5


def rules(metrics: Iterable[Metric], threshold: float = THRESHOLD) -> str:
    """The file: a known distribution and an alert for each metric."""
    return "\n".join(_of(metric, threshold) for metric in metrics)


def _of(metric: Metric, threshold: float) -> str:
    told, unit = metric.distribution, f" {metric.unit}" if metric.unit else ""
    return "\n".join(
        [
            "[[distribution]]",
            f'path = "{metric.path}"',
            f"mean = {told.mean!r}",
            f"std_dev = {told.sigma!r}",
            "",
            "[[alert]]",
            f'name = "{metric.name}-far-from-usual"',
            f'path = "{metric.path}"',
            f'when = "|z| > {threshold:g}"',
            'severity = "warning"',
            f'summary = "{{ep}}: {metric.title} is {{value}} standard deviations off {told.mean:g}{unit}"',
            "",
        ]
    )
