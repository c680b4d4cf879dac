"""What the demo shows: its devices with their last values, and the counts along the way."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from cloud.inventory import Picture as Inventory
from headwater.demo.traffic import Flow
from headwater.output import table
from headwater.values import shown
from schemas.lwm2m.path import Path

#: What the virtual sensors tell: the columns of the view.
_COLUMNS = {
    "temperature 0, °C": Path(3303, 0, 5700),
    "temperature 1, °C": Path(3303, 1, 5700),
    "humidity, %RH": Path(3304, 0, 5700),
}
_ROWS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPicture:
    """`headwater.demo.screen.Picture` of the demo."""

    flow: Flow
    inventory: Inventory
    head: str

    @property
    def seconds(self) -> float:
        return self.flow.seconds

    @property
    def link_cut(self) -> bool:
        return self.flow.link_cut

    def line(self) -> str:
        flow = self.flow
        return (
            f"{flow.seconds:5.0f} s  devices {flow.devices}  acknowledged {flow.acknowledged}  edge {flow.edge} "
            f"({flow.edge_rate:.1f}/s)  cloud {flow.cloud} ({flow.cloud_rate:.1f}/s)  behind {flow.behind}  "
            f"rows {flow.rows}  WAN {'CUT' if flow.link_cut else 'up'}"
        )

    def view(self) -> RenderableType:
        flow, picture = self.flow, self.inventory
        rows = []
        for ep in sorted(picture.devices)[:_ROWS]:
            device = picture.devices[ep]
            told = [picture.value(ep, path) for path in _COLUMNS.values()]
            rows.append(
                (
                    ep,
                    device.state.value,
                    *("" if value is None else shown(value.resource) for value in told),
                )
            )
        more = len(picture.devices) - _ROWS
        return Group(
            table(("device", "state", *_COLUMNS), rows, title=f"{self.head}  ·  {flow.seconds:.0f} s"),
            Text(f"  … and {more} more devices") if more > 0 else Text(""),
            table(
                ("acknowledged", "edge", "/s", "cloud", "/s", "behind", "stored", "WAN"),
                [
                    (
                        str(flow.acknowledged),
                        str(flow.edge),
                        f"{flow.edge_rate:.1f}",
                        str(flow.cloud),
                        f"{flow.cloud_rate:.1f}",
                        str(flow.behind),
                        str(flow.rows),
                        "CUT" if flow.link_cut else "up",
                    )
                ],
            ),
            Text("c: cut the WAN for 20 s    q: stop and audit    Ctrl-C: stop", style="dim"),
        )
