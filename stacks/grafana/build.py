"""Writes every dashboard as the JSON that Grafana is provisioned with: ``python -m stacks.grafana.build``.

Owns which dashboards there are. It asks nothing and nobody: the same code writes the same bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from stacks.grafana.boards import (
    analytics,
    fleet,
    gateway,
    kafka,
    kafka_topics,
    lwm2m,
    nodes,
    replication,
    services,
    sinks,
)
from stacks.grafana.panels import Board

BOARDS: Sequence[Board] = (
    fleet.BOARD,
    gateway.BOARD,
    lwm2m.BOARD,
    replication.BOARD,
    sinks.BOARD,
    analytics.BOARD,
    kafka.BOARD,
    kafka_topics.BOARD,
    nodes.BOARD,
    services.BOARD,
)

FOLDER = Path(__file__).parent / "dashboards"


def rendered(board: Board) -> str:
    """The JSON of a dashboard, with its keys sorted, so that a change of one line shows as one."""
    return json.dumps(board.build(), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write(folder: Path = FOLDER) -> list[Path]:
    """Write them all; what else lies there as JSON is removed, as no code builds it."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for board in BOARDS:
        file = folder / f"{board.uid.removeprefix('headwater-')}.json"
        file.write_text(rendered(board), "utf-8")
        written.append(file)
    for file in set(folder.glob("*.json")) - set(written):
        file.unlink()
    return written


if __name__ == "__main__":
    sys.stdout.write("".join(f"{file}\n" for file in write()))
