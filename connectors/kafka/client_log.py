"""What librdkafka logs: which of it is kept from the log, as it says nothing or says it over and over.

Owns that alone. Each client tells by itself that a broker is away, and whoever waits makes new clients: in a cut of
days nothing else would be in the log.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

#: A lost or refused connection, as librdkafka tells it: the client, the thread, the broker, why, how often.
_FAILED = re.compile(r"FAIL \[[^]]*\] \[thrd:[^]]*\]: (?P<what>.*?)( \(after .*\))?\Z", re.DOTALL)
#: The same of a broker by whichever name librdkafka has for it in that moment.
_NAME = re.compile(r"(?:ssl://|GroupCoordinator: )|(?<=\d)/(?:bootstrap|\d+)(?=:)")
#: The same is told again after so many seconds.
AGAIN_S = 60.0
#: So many different ones are known; a broker in great trouble has some dozens.
_KNOWN = 1000


class Seldom(logging.Filter):
    """Lets through each failed connection once a minute, whichever client tells it, and all else but one warning.

    The warning is that the gapless guarantee is "experimental": we chose it knowingly
    (docs/decisions/0002-durable-acknowledgement.md), and one that is always there hides the others.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._told: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it goes into the log."""
        text = record.getMessage()
        if "enable.gapless.guarantee" in text:
            return False
        failed = _FAILED.match(text)
        if failed is None:
            return True
        what, now = _NAME.sub("", failed["what"]), self._clock()
        if now - self._told.get(what, -AGAIN_S) < AGAIN_S:
            return False
        if len(self._told) >= _KNOWN:
            self._told = {}
        self._told = {**self._told, what: now}
        return True
