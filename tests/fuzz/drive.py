"""One surface under Atheris, in a process of its own: `run.py` starts it. The arguments are a name, and libFuzzer's.

It ends with the first input that raises: libFuzzer writes that to a file, and Atheris prints where.
"""

from __future__ import annotations

import logging
import sys

import atheris
import structlog

with atheris.instrument_imports(include=["gateway", "schemas"]):
    from tests.fuzz.surfaces import SURFACES


def main() -> None:
    name, *arguments = sys.argv[1:]
    # What is refused may be logged, at a rate that is no matter here.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with atheris.instrument_imports(include=["gateway"]):
        surface = SURFACES[name]()

    def take(data: bytes) -> None:
        surface.take(data)

    atheris.Setup([sys.argv[0], *arguments], take)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
