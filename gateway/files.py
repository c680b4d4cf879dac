"""Files for devices: the cache, what fills it, who fetches from it and who is sent to, as one part of the gateway.

Owns where a device finds the gateway's files. `gateway.file_cache`, `gateway.file_intake`, `gateway.file_server` and
`gateway.file_push` have the rest.
"""

from __future__ import annotations

import socket
from collections import Counter, OrderedDict
from collections.abc import Callable

from gateway.coap.endpoint import Endpoint
from gateway.coap.incoming import Incoming
from gateway.coap.peers import Address, SecurePeer, host_port
from gateway.file_cache import FOLDER, FileCache
from gateway.file_intake import FileIntake
from gateway.file_push import FilePush
from gateway.file_server import PATH, FileServer
from gateway.settings import GatewaySettings

#: Of so many files it is known that devices were told of them.
_MOST_TOLD = 1_024


class Files:
    """``known``: whether an address has shown that it can be reached. ``clock`` is monotonic seconds.

    Raises:
        OSError: the folder of the cache cannot be used.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        endpoint: Endpoint,
        topic: str,
        *,
        known: Callable[[Address], bool],
        clock: Callable[[], float],
    ) -> None:
        self._lines = endpoint.lines
        self._host = settings.file_host
        self.cache = FileCache(settings.state / FOLDER)
        self.intake = FileIntake(settings.kafka, topic, self.cache)
        self.server = FileServer(self.cache, known=known, missed=self._missed, clock=clock)
        #: The files that devices were told of or sent, the last one at the end.
        self._told: OrderedDict[str, None] = OrderedDict()
        #: Where there are other processes: told of what can be sent, and of what nobody is to ask for any more (False).
        self._told_others: Callable[[str, bool], None] | None = None
        self.push = FilePush(self.cache, endpoint.client, clock, per_block=settings.command_timeout)
        #: Requests for a file, now or soon answered; False: for something else.
        self.request: Callable[[Incoming], bool] = self.server.request

    @property
    def dropped(self) -> Counter[str]:
        """Files and records that were dropped, by reason."""
        return self.cache.dropped + self.intake.dropped

    def tell(self, others: Callable[[str, bool], None]) -> None:
        """Have the ``others`` know what is here, now and later: a device may fetch from an address of its own."""
        self._told_others = others
        for sha256 in self.cache.hashes()[-_MOST_TOLD:]:
            others(sha256, True)

    def stop(self) -> None:
        """Take nothing any more; blocks."""
        self.intake.stop()
        self.cache.close()

    def has(self, sha256: str) -> bool:
        """True if the file is here; if not it is looked for."""
        self._told[sha256] = None
        self._told.move_to_end(sha256)
        if len(self._told) > _MOST_TOLD:
            gone, _ = self._told.popitem(last=False)
            if self._told_others is not None:
                self._told_others(gone, False)
        if sha256 in self.cache:
            if self._told_others is not None:
                self._told_others(sha256, True)
            return True
        self.intake.want(sha256)
        return False

    def why(self, sha256: str) -> str:
        """Why a file is not here, in words."""
        trouble = self.intake.why(sha256)
        if trouble is None:
            return f"the file {sha256} is not at this gateway (yet); it comes by the topic of its files"
        return f"the file {sha256} is not at this gateway: {trouble}"

    def _missed(self, sha256: str) -> None:
        # Whoever asks for what nobody was told of has the topic read for nothing.
        if sha256 in self._told:
            self.intake.want(sha256)

    def base(self, peer: Address) -> str:
        """The URI, less the hash, at which this device fetches files."""
        host, port = self._lines.local_address_of(peer)
        host = self._host or (_towards(*host_port(peer)) if host in ("0.0.0.0", "::") else host)
        scheme = "coaps" if isinstance(peer, SecurePeer) else "coap"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/{PATH}/"


def _towards(host: str, port: int) -> str:
    """Our address as a peer sees it, if nothing between translates it. Nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as way:
        try:
            way.connect((host, port))
        except OSError:
            return socket.gethostname()
        return str(way.getsockname()[0]).removeprefix("::ffff:")
