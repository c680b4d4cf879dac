"""The names of the files of an identity's folder. Whoever only tells Kafka's client where they are needs no more."""

from __future__ import annotations

CA, CERTIFICATE, KEY, KEYSTORE = "ca.pem", "cert.pem", "key.pem", "keystore.pem"
#: All that a folder holds.
FILES = (CA, CERTIFICATE, KEY, KEYSTORE)
