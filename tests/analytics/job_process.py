"""Runs one job as the command does, with shorter times: to be killed by tests.

Arguments: job, gateway, Kafka, group, state folder, metrics port.
"""

from __future__ import annotations

import sys
from pathlib import Path

from analytics.app import run_job
from analytics.job import JobSettings, parse_options
from analytics.jobs import JOBS
from headwater.running import run_thread_until_stopped


def main() -> None:
    job, gateway, bootstrap, group, state, port = sys.argv[1:]
    settings = JobSettings(
        kind=JOBS[job],
        options=parse_options(JOBS[job], {}),
        gateway=gateway,
        bootstrap=bootstrap,
        group=group,
        state=Path(state),
        metrics_port=int(port),
        session_s=6.0,
        commit_s=0.3,
    )
    run_thread_until_stopped(lambda stop: run_job(settings, stop))


if __name__ == "__main__":
    main()
