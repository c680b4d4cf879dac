"""Which Kafka a command means, and as whom it speaks to it: made of ``--kafka`` and ``--kafka-tls``.

Owns the look at the identity's folder before anything is connected, so that a missing file is told as that.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.exits import Exit, Stop

if TYPE_CHECKING:
    from connectors.kafka import Cluster


def cluster(kafka: str, tls: Path | None, flag: str = "--kafka-tls") -> Cluster:
    """The Kafka at ``kafka``, spoken to with the identity in ``tls`` (None: plainly). ``flag`` is for the words.

    Raises:
        Stop: the folder holds no identity, or one that has run out.
    """
    from connectors.kafka import Cluster
    from security.errors import SecurityError
    from security.tls_folder import read_folder

    if tls is None:
        return Cluster(bootstrap=kafka)
    try:
        folder = read_folder(tls)
        folder.check_dates(datetime.now(UTC))
    except SecurityError as exc:
        raise Stop(Exit.CANNOT_START, f"{flag} {tls}: {exc}") from exc
    return Cluster(bootstrap=kafka, tls=folder.path)
