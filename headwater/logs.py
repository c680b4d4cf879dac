"""How the processes log: set up once, structured, on stderr, quiet in normal running.

For people on a terminal lines with colours, JSON lines when piped. Never holds a secret: a key that names one is
masked here, whatever was passed; and a kind of line is written so often and no more (`headwater.log_rate`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

if not sys.stderr.isatty() and "rich" not in sys.modules:
    # structlog loads rich for the tracebacks on a terminal: five megabytes that a process without one never uses. To
    # structlog it is not installed, and whoever asks for it later gets it.
    sys.modules["rich"] = None  # type: ignore[assignment]  # what `import` takes for "is not there"
    try:
        import structlog
    finally:
        del sys.modules["rich"]
else:
    import structlog

from headwater.log_level import LogLevel
from headwater.log_rate import LogRate

#: Parts of a key's name that mark its value as secret.
SECRET = ("password", "secret", "psk", "private_key", "credential")
#: Loggers that tell every block and every lost connection; what matters the processes say themselves.
NOISY = ("coap", "coap-server", "asyncio", "headwater.aiocoap", "headwater.kafka", "quixstreams")


def _mask(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event:
        if any(part in key.lower() for part in SECRET):
            event[key] = "***"
    return event


def set_up(level: LogLevel, *, terminal: bool | None = None) -> None:
    """Send structlog and the standard library's logging to stderr at ``level``."""
    pretty = sys.stderr.isatty() if terminal is None else terminal
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _mask,
    ]
    render: list[structlog.typing.Processor] = (
        # Without the values of variables in tracebacks: a key may be one of them.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if pretty
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            # Who debugs wants all of it.
            *([] if level is LogLevel.DEBUG else [LogRate()]),
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.number)
    if level is not LogLevel.DEBUG:
        for noisy in NOISY:
            logging.getLogger(noisy).setLevel(max(level.number, logging.ERROR))
