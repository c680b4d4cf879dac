"""Where a store of credentials may be made for a test, and nobody has one yet."""

from __future__ import annotations

import atexit
import tempfile
from functools import cache
from pathlib import Path
from uuid import uuid4

from headwater.servers.redis import Brand
from security.credentials.opening import StorePlace, place_of
from tests.redis_server import PASSWORD, shared_server


@cache
def password_file() -> Path:
    """The password of the session's Redis, in a file."""
    folder = tempfile.TemporaryDirectory(prefix="headwater-password-")
    atexit.register(folder.cleanup)
    file = Path(folder.name) / "password"
    file.touch(0o600)
    file.write_text(PASSWORD)
    return file


def place_in_redis(brand: Brand = Brand.REDIS) -> StorePlace:
    """A prefix of its own."""
    port = shared_server(brand).port
    return place_of(f"redis://127.0.0.1:{port}/999?prefix={uuid4().hex}&password_file={password_file()}")
