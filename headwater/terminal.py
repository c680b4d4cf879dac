"""What may reach a terminal. Devices choose their names, values and error texts, and a terminal obeys what it is sent.

Owns the one rule for it; knows nothing of tables or commands.
"""

from __future__ import annotations

import json
import re

#: Stands for each sign that is not shown.
HIDDEN = "·"

#: All that JSON leaves as it is and a terminal may obey: C1 controls, formats, lone surrogates, odd spaces.
_BEYOND_ASCII = re.compile(r"[^\x00-\x7e]")


def printable(text: str, *, keep: str = "") -> str:
    """``text`` with a dot for each control or otherwise unprintable sign, but for those in ``keep``."""
    return text if text.isprintable() else "".join(s if s.isprintable() or s in keep else HIDDEN for s in text)


def printable_json(text: str) -> str:
    """JSON with its unprintable signs escaped (RFC 8259, section 7), so that it says the same.

    ``json.dumps`` has escaped what is below U+0020; line ends between the values stay.
    """
    if text.isascii() and "\x7f" not in text:
        return text
    return _BEYOND_ASCII.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)
