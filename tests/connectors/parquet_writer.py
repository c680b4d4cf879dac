"""A Parquet sink as a process of its own, to be killed: it says which offset is durable, and goes on for ever.

Arguments: folder, first offset, seed of how its batches are cut.
"""

from __future__ import annotations

import random
import sys

from connectors.sinks.parquet import open_parquet
from tests.sink_samples import at, notification, resource


def main(folder: str, first: str, seed: str) -> None:
    sink = open_parquet({"folder": folder, "publish_s": 0.01, "max_rows": 500})
    cut = random.Random(int(seed))
    offset = int(first)
    while True:
        following = offset + cut.randint(1, 60)
        batch = [
            # An hour has a thousand of them.
            at(number, notification(resource("/3303/0/5700", float(number)), timestamp=number * 3_600))
            for number in range(offset, following)
        ]
        sink.write(batch)
        offset = following
        print(offset, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
