"""Files come in: a thread reads ``iot.<gw>.files`` and puts the pieces into the cache.

Owns where the reading goes on after a start: behind what is whole or was dropped, and before the first piece of what is
not (`position.json` in the cache's folder, for the topic by its id). The file may be lost: then all is read again.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import suppress

import structlog

from connectors import kafka
from connectors.kafka import Cluster, Consumer, KafkaException, TopicMissing, TopicPartition, Unreachable
from gateway.file_cache import FileCache, Taken
from schemas.files import NoPiece, piece_of

_log = structlog.get_logger("headwater.files")

_POLL = 0.2
_RETRY = 2.0
_TIMEOUT = 10.0
#: What was asked for and is not here is looked for from the topic's beginning, no oftener than so many seconds.
_AGAIN_EVERY = 30.0
_SAVE_EVERY = 5.0
#: A name that the access rights give to a gateway for looking; nothing is committed there.
_GROUP = "headwater-reader"


class FileIntake:
    """The consumer thread, from `start` to `stop`, whatever Kafka and the disk do meanwhile."""

    def __init__(self, cluster: Cluster, topic: str, cache: FileCache) -> None:
        self._cluster = cluster
        self._topic = topic
        self._cache = cache
        self._stopping = threading.Event()
        self._again = threading.Event()
        self._again_at = float("-inf")
        self._thread: threading.Thread | None = None
        self._topic_id = ""
        self._next = 0
        self._saved = -1
        self._saved_at = 0.0
        self._complained = ""
        #: Records that were dropped, by reason.
        self.dropped: Counter[str] = Counter()

    def start(self) -> None:
        """Begin to read."""
        self._thread = threading.Thread(target=self._run, name="file-intake", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def look_again(self) -> None:
        """A file is asked for that is not here: it may have made room for others, or its folder was emptied."""
        self._again.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            # Small queues: a gateway has little memory, and files are in no hurry.
            reader = kafka.consumer(
                self._cluster,
                _GROUP,
                queued_max_messages_kbytes=512,
                queued_min_messages=8,
                fetch_message_max_bytes=262_144,
                fetch_max_bytes=1_048_576,
            )
            try:
                self._assign(reader)
                while not self._stopping.is_set():
                    self._read(reader)
            except (KafkaException, Unreachable, TopicMissing, OSError) as exc:
                self._complain(str(exc))
                self._stopping.wait(_RETRY)
            finally:
                with suppress(OSError):
                    self._save()
                with suppress(KafkaException, RuntimeError):
                    reader.close()

    def _assign(self, reader: Consumer) -> None:
        facts = kafka.describe_topics(kafka.admin(self._cluster), [self._topic], timeout=_TIMEOUT).get(self._topic)
        if facts is None:
            raise TopicMissing(f"there is no topic {self._topic}")
        place = TopicPartition(self._topic, 0)
        low, high = reader.get_watermark_offsets(place, timeout=_TIMEOUT, cached=False)
        self._topic_id = facts.id
        self._next = place.offset = min(max(self._stored(facts.id), low), high)
        reader.assign([place])

    def _read(self, reader: Consumer) -> None:
        if self._again.is_set() and time.monotonic() - self._again_at > _AGAIN_EVERY:
            self._again.clear()
            self._again_at = time.monotonic()
            low, _ = reader.get_watermark_offsets(TopicPartition(self._topic, 0), timeout=_TIMEOUT, cached=False)
            self._next = low
            reader.assign([TopicPartition(self._topic, 0, low)])
        message = reader.poll(_POLL)
        if message is None:
            self._save_now_and_then()
            return
        error = message.error()
        if error is not None:
            if error.code() == kafka.KafkaError._PARTITION_EOF:
                return
            raise KafkaException(error)
        self._complained = ""
        try:
            taken = self._cache.take(piece_of(message.key(), message.value(), message.headers()), message.offset())
        except NoPiece as exc:
            self.dropped["no piece of a file"] += 1
            self._complain(f"{self._topic} offset {message.offset()}: {exc}")
            taken = Taken.WRONG
        self._next = message.offset() + 1
        if taken is Taken.WHOLE:
            self._save()
        else:
            self._save_now_and_then()

    def _complain(self, why: str) -> None:
        if why != self._complained:
            self._complained = why
            _log.warning("files for devices cannot be taken for now", topic=self._topic, error=why)

    # Where to go on

    def _stored(self, topic_id: str) -> int:
        try:
            said = json.loads((self._cache.folder / "position.json").read_bytes())
            return int(said["offset"]) if said["topic"] == topic_id else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _save_now_and_then(self) -> None:
        if time.monotonic() - self._saved_at > _SAVE_EVERY:
            self._save()

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        oldest = self._cache.oldest_part
        position = self._next if oldest is None else min(oldest, self._next)
        if position == self._saved or not self._topic_id:
            return
        path = self._cache.folder / "position.json"
        path.with_suffix(".new").write_text(json.dumps({"topic": self._topic_id, "offset": position}))
        path.with_suffix(".new").replace(path)
        self._saved = position
