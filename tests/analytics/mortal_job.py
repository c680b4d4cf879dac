"""An analytics job with any options as a process of its own, which a test may kill.

Arguments: the job's name, bootstrap, gateway id, the folder of its state, its options (JSON).
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

from analytics.app import run_job
from analytics.job import JobSettings, parse_options
from analytics.jobs import JOBS


def main(name: str, bootstrap: str, gateway: str, state: str, options: str) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: stop.set())
    kind = JOBS[name]
    settings = JobSettings(
        kind=kind,
        options=parse_options(kind, json.loads(options)),
        gateway=gateway,
        bootstrap=bootstrap,
        state=Path(state),
        # The shortest that Kafka takes: here, members die all the time.
        session_s=6.0,
        commit_s=0.2,
    )
    run_job(settings, stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
