"""What the gateway reads of devices by itself: asked and answered as any other read, without the topic of requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.device_link import DeviceLink, to_response
from gateway.exchange import DeviceView
from gateway.operations import build
from gateway.registry import Device
from gateway.replies import reply
from schemas.avro.records import Request, RequestKind, RequestPayload, Response
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

#: MAX_TRANSMIT_WAIT (RFC 7252, section 4.8.2).
_TIMEOUT: Final = 93.0


class OwnReads:
    """``wall_ms`` is epoch ms."""

    def __init__(
        self, *, server_id: str, link: DeviceLink, definitions: Definitions, wall_ms: Callable[[], int]
    ) -> None:
        self._server_id = server_id
        self._link = link
        self._definitions = definitions
        self._wall_ms = wall_ms

    async def read(self, device: Device, path: Path, *, ticket: str = "", view: DeviceView | None = None) -> Response:
        """The reply to a read of ``path``, be it an error of the device's; to be called when its turn has come.

        ``view`` is how the device is spoken to, as it registered where it is left out.

        Raises:
            RefusedRequest: the device cannot be asked for that.
            ExchangeError: it did not answer.
        """
        payload = RequestPayload(kind=RequestKind.READ, path=str(path))
        request = Request(server_id=self._server_id, ep=device.ep, ticket=ticket, payload=payload)
        view = view or device.view()
        message = await self._link.send(device.address, build(request, view, self._definitions), timeout=_TIMEOUT)
        return reply(
            request,
            to_response(message),
            now_ms=self._wall_ms(),
            server_id=self._server_id,
            definitions=self._definitions,
            device=view,
        )
