"""What is inside an image, as a CycloneDX 1.6 bill of materials, read out of the image itself.

Owns the reading of a container's file system (as ``docker export`` gives it, so nothing need run in it and its platform
does not matter) and the JSON: Debian's packages by dpkg's own record, installed Python distributions, jars by
coordinate and SHA-256, the Java runtime. What was meant to go in is not asked: a jar that no table pins is listed as
the file that it is.
"""

from __future__ import annotations

import csv
import hashlib
import tarfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import PurePosixPath
from typing import IO, Any
from urllib.parse import quote

_NAMESPACE = uuid.UUID("5f0c6f0e-8d7a-4a53-9a55-6d0f6c3f7a11")


@dataclass(frozen=True, slots=True, order=True)
class Component:
    """One piece: its package URL is its identity (https://github.com/package-url/purl-spec)."""

    purl: str
    name: str
    version: str
    kind: str = "library"
    group: str = ""
    sha256: str = ""
    licence: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "type": self.kind,
            "bom-ref": self.purl,
            **({"group": self.group} if self.group else {}),
            "name": self.name,
            "version": self.version,
            "purl": self.purl,
            **({"hashes": [{"alg": "SHA-256", "content": self.sha256}]} if self.sha256 else {}),
            **({"licenses": [{"license": {"name": self.licence}}]} if self.licence else {}),
        }


def coordinates(tables: Iterable[str]) -> dict[str, str]:
    """Maven coordinates (group:artifact:version) by SHA-256, out of tables of pinned jars."""
    rows = (row for table in tables for row in csv.DictReader(table.splitlines(), delimiter="\t"))
    return {row["sha256"]: row["coordinate"] for row in rows}


def components(export: IO[bytes], pinned: Mapping[str, str]) -> list[Component]:
    """The components in a file system; ``export`` is a tar stream, ``pinned`` as of `coordinates`."""
    found: set[Component] = set()
    with tarfile.open(fileobj=export, mode="r|") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if member.isfile() and _is_wanted(path):
                file = archive.extractfile(member)
                assert file is not None  # it is a regular file
                found.update(_read(path, file.read(), pinned))
    return sorted(found)


def _is_wanted(path: PurePosixPath) -> bool:
    return (
        str(path) in ("var/lib/dpkg/status", "opt/java/release")
        or path.parent == PurePosixPath("var/lib/dpkg/status.d")
        or (path.name == "METADATA" and path.parent.suffix == ".dist-info")
        or path.suffix == ".jar"
    )


def _read(path: PurePosixPath, content: bytes, pinned: Mapping[str, str]) -> Iterator[Component]:
    if path.suffix == ".jar":
        yield _jar(path, hashlib.sha256(content).hexdigest(), pinned)
    elif path.name == "METADATA":
        yield _distribution(content.decode("utf-8", "replace"))
    elif path.name == "release":
        yield _java(content.decode("utf-8", "replace"))
    elif path.suffix not in (".md5sums", ".list"):
        yield from _packages(content.decode("utf-8", "replace"))


def _jar(path: PurePosixPath, sha256: str, pinned: Mapping[str, str]) -> Component:
    if sha256 not in pinned:
        return Component(
            f"pkg:generic/{quote(path.name)}?checksum=sha256:{sha256}", path.name, sha256[:12], "file", "", sha256
        )
    group, artifact, *_, version = pinned[sha256].split(":")
    return Component(f"pkg:maven/{group}/{artifact}@{version}", artifact, version, group=group, sha256=sha256)


def _distribution(text: str) -> Component:
    fields = HeaderParser().parsestr(text, headersonly=True)
    name, version = fields["Name"], fields["Version"]
    licence = (fields["License-Expression"] or fields["License"] or "").strip()
    # Some put the whole text of the licence there.
    licence = "" if "\n" in licence or len(licence) > 100 or licence == "UNKNOWN" else licence
    return Component(f"pkg:pypi/{name.lower().replace('_', '-')}@{version}", name, version, licence=licence)


def _java(text: str) -> Component:
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    version = fields.get("JAVA_RUNTIME_VERSION", fields.get("JAVA_VERSION", '"unknown"')).strip('"')
    vendor = fields.get("IMPLEMENTOR", "").strip('"')
    return Component(f"pkg:generic/java-runtime@{quote(version)}", "java-runtime", version, "platform", vendor)


def _packages(status: str) -> Iterator[Component]:
    for stanza in status.split("\n\n"):
        fields = HeaderParser().parsestr(stanza.strip() + "\n", headersonly=True)
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        if name and fields.get("Status", "install ok installed").endswith(" installed"):
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}"
            yield Component(purl, name, version)


def bill(
    *, name: str, version: str, image: str, created: str, environment: Sequence[str], inside: Sequence[Component]
) -> dict[str, Any]:
    """The document.

    Args:
        image: the image's id, ``sha256:…``.
        created: when it was built, as Docker says it (RFC 3339).
        environment: the image's variables; Docker's Python images name their interpreter there alone.
    """
    variables = dict(one.split("=", 1) for one in environment if "=" in one)
    python = variables.get("PYTHON_VERSION")
    more = [] if python is None else [Component(f"pkg:generic/python@{python}", "python", python, "platform")]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, image)}",
        "version": 1,
        "metadata": {
            "timestamp": created.partition(".")[0].rstrip("Z") + "Z",
            "component": {
                "type": "container",
                "bom-ref": f"{name}@{image}",
                "name": name,
                "version": version,
                "properties": [{"name": "docker:image:id", "value": image}],
            },
        },
        "components": [one.as_json() for one in sorted({*inside, *more})],
    }
