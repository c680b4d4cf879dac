"""Sequence numbers on disk: ours before they are used, a device's before what it said is answered or acknowledged.

Owns when a context is written, and who waits for it (RFC 8613 section 7.5.1, appendix B.1.1). What is to be written is
the association's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import structlog

from gateway.coap.peers import OscorePeer
from gateway.oscore.association import Association
from gateway.state import State, StateError

_log = structlog.get_logger("headwater.oscore")


class Numbers:
    """Of all devices. ``on_numbers`` is told of whom there are numbers for that a request waited for; ``refused``
    counts, by reason, what came to nothing."""

    def __init__(self, state: State, on_numbers: Callable[[OscorePeer], None], refused: Counter[str]) -> None:
        self._state = state
        self._on_numbers = on_numbers
        self._refused = refused

    def take(self, association: Association, number: int, done: Callable[[bool], None]) -> None:
        """A number of the device is taken; ``done`` hears whether that is durable. If not, it may come again."""
        association.window.take(number)

        def written(is_durable: bool) -> None:
            if not is_durable:
                association.window.give_back(number)
            done(is_durable)

        self.write(association, written)

    def reserve(self, association: Association) -> None:
        """More of ours, if they are short."""
        if association.is_short:
            self.write(association)

    def write(self, association: Association, done: Callable[[bool], None] = lambda _: None) -> None:
        """Have it on disk as it is now; ``done`` hears whether it is."""
        row = association.row()
        try:
            self._state.put_oscore_context(row)
        except StateError as exc:
            self._complain(exc)
            done(False)
            return

        def written(error: StateError | None) -> None:
            if error is None:
                association.reserved(row)
            else:
                self._complain(error)
                association.wanted = association.durable
            done(error is None)
            if error is None and association.waits:
                association.waits = False
                self._on_numbers(association.peer)

        self._state.on_durable(written)

    def _complain(self, error: StateError) -> None:
        self._refused["state not written"] += 1
        if self._refused["state not written"] == 1:
            _log.warning("OSCORE devices are not answered while the state cannot be written", reason=str(error))
