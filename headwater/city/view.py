"""What the demo of the sensor city shows: metrics against what they were told to be, stations, outliers, alerts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.text import Text

from cloud.inventory import Picture as Inventory
from gateway.devices.metrics import Metric
from headwater.city.findings import Findings
from headwater.demo.traffic import Flow
from headwater.output import table

_STATIONS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class CityPicture:
    """`headwater.demo.screen.Picture` of the sensor city. ``kept``: what each store has, in words."""

    flow: Flow
    inventory: Inventory
    findings: Findings
    metrics: Mapping[str, Metric]
    kept: Mapping[str, str]
    head: str

    @property
    def seconds(self) -> float:
        return self.flow.seconds

    @property
    def link_cut(self) -> bool:
        return self.flow.link_cut

    def line(self) -> str:
        flow, found = self.flow, self.findings
        kinds = sum(str(metric.path) in found.paths for metric in self.metrics.values())
        stores = "".join(f"  {name} {what}" for name, what in self.kept.items())
        return (
            f"{flow.seconds:5.0f} s  stations {flow.devices}  kinds {kinds}  acknowledged {flow.acknowledged}  "
            f"cloud {flow.cloud} ({flow.cloud_rate:.1f}/s)  enriched {found.readings}  outliers {found.outliers}  "
            f"alerts {found.raised}{stores}  WAN {'CUT' if flow.link_cut else 'up'}"
        )

    def view(self) -> RenderableType:
        flow, found = self.flow, self.findings
        return Group(
            # At the top: the end of a view that is longer than the terminal is not seen.
            Text("a: add a new kind of sensor    c: cut the WAN for 20 s    q: stop and sum up    Ctrl-C: stop", "dim"),
            table(
                ("metric", "unit", "told μ/σ", "readings", "mean", "σ", "outliers", "alerts firing"),
                [self._metric(metric) for metric in self.metrics.values() if str(metric.path) in found.paths],
                title=f"{self.head}  ·  {flow.seconds:.0f} s",
            ),
            table(("station", "state", "sensors"), self._stations()),
            table(("last outliers", "metric", "at", "value", "z"), self._outliers()),
            table(
                ("acknowledged", "edge", "/s", "cloud", "/s", "behind", "enriched", *self.kept, "WAN"),
                [
                    (
                        *(str(flow.acknowledged), str(flow.edge), f"{flow.edge_rate:.1f}"),
                        *(str(flow.cloud), f"{flow.cloud_rate:.1f}", str(flow.behind), str(found.readings)),
                        *self.kept.values(),
                        "CUT" if flow.link_cut else "up",
                    )
                ],
            ),
        )

    def _metric(self, metric: Metric) -> tuple[str, ...]:
        path, told = str(metric.path), metric.distribution
        seen = self.findings.together(path)
        firing = sum(alert.path == path for alert in self.findings.firing.values())
        return (
            metric.name,
            metric.unit or "",
            f"{told.mean:g}/{told.sigma:g}{floor_told(metric)}",
            str(self.findings.readings_of[path]),
            "" if seen is None else f"{seen.mean:.2f}",
            "" if seen is None else f"{seen.std_dev:.2f}",
            str(self.findings.outliers_of[path]),
            str(firing) if firing else "",
        )

    def _stations(self) -> list[tuple[str, str, str]]:
        devices = self.inventory.devices
        shown = sorted(devices)[:_STATIONS]
        rows = [(ep, devices[ep].state.value, str(self._sensors(ep))) for ep in shown]
        if len(devices) > len(shown):
            rows.append((f"… {len(devices) - len(shown)} more", "", ""))
        return rows

    def _sensors(self, ep: str) -> int:
        """How many of its metrics a station has told of."""
        return sum(self.inventory.value(ep, metric.path) is not None for metric in self.metrics.values())

    def _outliers(self) -> list[tuple[str, str, str, str, str]]:
        names = {str(metric.path): metric.name for metric in self.metrics.values()}
        return [
            (
                one.ep,
                names.get(one.path, one.path),
                datetime.fromtimestamp(one.timestamp / 1000, UTC).strftime("%H:%M:%S"),
                f"{one.value:.2f}",
                f"{one.z_score:+.1f}",
            )
            for one in self.findings.last_outliers
        ]


def floor_told(metric: Metric) -> str:
    """`` ≥ 0`` where the floor is so near that it shifts the mean of what is shown, else nothing."""
    told = metric.distribution
    near = math.isfinite(told.low) and told.mean - told.low < 3 * told.sigma
    return f" ≥ {told.low:g}" if near else ""
