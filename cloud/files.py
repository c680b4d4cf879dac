"""Sending a file to the edge: its pieces into ``iot.<gw>.files``, once.

Owns the look whether it is there already. Where the topic's Kafka is the cloud's the replicator carries the pieces; the
gateway puts them together (`gateway.file_cache`).
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from cloud.writing import Record, write
from connectors.kafka import Cluster, ensure_topics, read_to_end
from schemas.avro.topics import FAMILIES, TopicKind, Topics
from schemas.files import PIECE, File, NoPiece, describe, piece_of, pieces

#: What Kafka may take for a piece, in seconds.
_PER_PIECE_S = 5.0


def load(path: Path) -> tuple[File, bytes]:
    """A file of this machine.

    Raises:
        OSError: it cannot be read.
        NoPiece: it is empty or too large.
    """
    data = path.read_bytes()
    return describe(data, path.name), data


def is_there(cluster: Cluster, gateway: str, file: File, data: bytes) -> bool:
    """True if the topic holds every piece of the file, so that a gateway makes it of them.

    Raises:
        Unreachable, KafkaException: Kafka did not answer, or refused.
    """
    missing, wrong = set(range(file.pieces)), set[int]()
    for message in read_to_end(cluster, [Topics(gateway).files]):
        with contextlib.suppress(NoPiece):
            piece = piece_of(message.key(), message.value(), message.headers())
            if (piece.file.sha256, piece.file.size) != (file.sha256, file.size):
                continue
            missing.discard(piece.number)
            right = piece.data == data[piece.number * PIECE : (piece.number + 1) * PIECE]
            (wrong.discard if right else wrong.add)(piece.number)
            if not missing:
                if not wrong:
                    return True
                # As the gateway does it: all of it is dropped, and it begins anew.
                missing, wrong = set(range(file.pieces)), set()
    return False


def send(cluster: Cluster, gateway: str, file: File, data: bytes, *, again: bool = False) -> bool:
    """Put the file into the topic if it is not there, or ``again``; returns whether it was put there.

    Raises:
        Unreachable, KafkaException: Kafka did not answer, or refused.
        NotSent: Kafka did not confirm all of it; some of it may be there, and to send it again does no harm.
    """
    topic = Topics(gateway).files
    ensure_topics(cluster, {topic: FAMILIES[TopicKind.FILES].partitions})
    if not again and is_there(cluster, gateway, file, data):
        return False
    write(
        cluster,
        topic,
        (Record(key=one.key, value=one.data, partition=0, headers=one.headers) for one in pieces(file, data)),
        file.name,
        timeout=10.0 + _PER_PIECE_S * file.pieces,
        in_vain=", so not send files to these devices",
        # A piece a batch: the topic takes no larger ones.
        batch_size=PIECE,
    )
    return True
