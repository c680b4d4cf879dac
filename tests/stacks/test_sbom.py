"""The bill of materials: what of a file system is in it, and that the tables of pinned jars are told from strangers."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from stacks.images.sbom import bill, components, coordinates

PINNED, STRANGER = b"a jar that is pinned", b"a jar that nobody knows"
TABLES = (
    f"coordinate\tbytes\tsha256\norg.apache.kafka:kafka-clients:4.1.0\t20\t{hashlib.sha256(PINNED).hexdigest()}\n",
    "coordinate\tsha256\n",
)
STATUS = b"""Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10
Description: GNU C Library
 of many lines

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1:2
"""
FILES = {
    "var/lib/dpkg/status": STATUS,
    "opt/kafka/libs/kafka-clients-4.1.0.jar": PINNED,
    "opt/kafka/libs/other.jar": STRANGER,
    "opt/java/release": b'IMPLEMENTOR="Eclipse"\nJAVA_VERSION="25.0.2"\nJAVA_RUNTIME_VERSION="25.0.2+10-LTS"\n',
    "opt/headwater/lib/python3.11/site-packages/Some_Thing-1.0.dist-info/METADATA": (
        b"Metadata-Version: 2.4\nName: Some_Thing\nVersion: 1.0\nLicense-Expression: MIT\n\nVersion: 2.0\n"
    ),
    "home/METADATA": b"Name: none\nVersion: 0\n",
    "etc/hosts": b"127.0.0.1 localhost\n",
}


def _archive() -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("opt/link.jar")
        link.type, link.linkname = tarfile.SYMTYPE, "kafka/libs/other.jar"
        archive.addfile(link)
    stream.seek(0)
    return stream


def test_each_piece_is_there_once_with_its_version() -> None:
    stranger = hashlib.sha256(STRANGER).hexdigest()
    found = {one.purl: one for one in components(_archive(), coordinates(TABLES))}
    assert set(found) == {
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64",
        "pkg:maven/org.apache.kafka/kafka-clients@4.1.0",
        f"pkg:generic/other.jar?checksum=sha256:{stranger}",
        "pkg:generic/java-runtime@25.0.2%2B10-LTS",
        "pkg:pypi/some-thing@1.0",
    }
    assert found["pkg:maven/org.apache.kafka/kafka-clients@4.1.0"].sha256 == hashlib.sha256(PINNED).hexdigest()
    assert found["pkg:pypi/some-thing@1.0"].licence == "MIT"


def test_the_document_is_cyclonedx_and_the_same_each_time() -> None:
    def made() -> dict[str, object]:
        return bill(
            name="headwater",
            version="1.2.3",
            image="sha256:" + "ab" * 32,
            created="2026-11-22T22:45:10.123456789Z",
            environment=("PATH=/bin", "PYTHON_VERSION=3.11.14"),
            inside=components(_archive(), coordinates(TABLES)),
        )

    document = made()
    assert document == made()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    purls = [one["purl"] for one in document["components"]]  # type: ignore[attr-defined]  # JSON
    assert "pkg:generic/python@3.11.14" in purls
    assert len(purls) == len(set(purls)) == 6
