"""Files come in: while somebody wants one that is not here, a thread reads ``iot.<gw>.files`` and puts its pieces into
the cache.

Owns who wants what, and where in the topic it is looked for. Nothing is read, and nothing connected, while nothing is
wanted; what nobody asked for is passed over, so that who writes to the topic fills no disk. The topic is read from its
beginning once, and what is seen on the way is remembered by its place. Nothing survives a start: who still wants a file
asks again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
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
#: How long a file is waited for that nobody asks for any more, in seconds.
_WANTED_FOR = 600.0
#: One that could not be kept is not tried again for so long.
_NOT_AGAIN_FOR = 30.0
_MOST_WANTED = 64
#: Of so many files of the topic it is remembered where they begin.
_MOST_PLACES = 4_096
#: A name that the access rights give to a gateway for looking; nothing is committed there.
_GROUP = "headwater-reader"


class FileIntake:
    """What is wanted, and the thread that reads while there is something; whatever Kafka and the disk do meanwhile."""

    def __init__(self, cluster: Cluster, topic: str, cache: FileCache) -> None:
        self._cluster = cluster
        self._topic = topic
        self._cache = cache
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        #: Until when each is wanted; why one could not be kept, and until when it is left; monotonic seconds.
        self._wanted: OrderedDict[str, float] = OrderedDict()
        self._failed: OrderedDict[str, tuple[str, float]] = OrderedDict()
        #: Those that were added since the thread looked.
        self._new: set[str] = set()
        #: Where each file that was seen begins, whether some are forgotten, and what is read next.
        self._places: OrderedDict[str, int] = OrderedDict()
        self._forgot = False
        self._topic_id = ""
        self._next = 0
        #: Why nothing can be read now, or None.
        self._trouble: str | None = None
        #: Records that were dropped, by reason.
        self.dropped: Counter[str] = Counter()

    @property
    def reads(self) -> bool:
        """True while something is wanted."""
        return self._thread is not None

    def why(self, sha256: str) -> str | None:
        """What keeps a wanted file from being here, beside that it is on its way; None if there is nothing."""
        with self._lock:
            failed = self._failed.get(sha256)
            return self._trouble if failed is None else failed[0]

    def want(self, sha256: str) -> None:
        """Somebody asks for a file that is not here: look for it, and wait for it if it is not in the topic yet."""
        now = time.monotonic()
        with self._lock:
            failed = self._failed.get(sha256)
            if self._stopping.is_set() or (failed is not None and failed[1] > now):
                return
            if sha256 not in self._wanted:
                self._new.add(sha256)
            self._wanted[sha256] = now + _WANTED_FOR
            if len(self._wanted) > _MOST_WANTED:
                self._forget(next(iter(self._wanted)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="file-intake", daemon=True)
                self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread."""
        with self._lock:
            self._stopping.set()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _forget(self, sha256: str) -> None:
        self._wanted.pop(sha256, None)
        self._new.discard(sha256)

    def _is_wanted(self, sha256: str) -> bool:
        with self._lock:
            return sha256 in self._wanted

    def _done(self) -> bool:
        """True if the thread ends, since nothing is wanted any more."""
        now = time.monotonic()
        with self._lock:
            for sha256, until in list(self._wanted.items()):
                if until < now or sha256 in self._cache:
                    self._forget(sha256)
            if self._wanted and not self._stopping.is_set():
                return False
            self._thread = None
            return True

    def _run(self) -> None:
        while not self._done():
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
                with self._lock:
                    self._trouble = None
                while not self._done():
                    self._read(reader)
                break
            except (KafkaException, Unreachable, TopicMissing, OSError) as exc:
                self._complain(str(exc))
                self._stopping.wait(_RETRY)
            finally:
                with suppress(KafkaException, RuntimeError):
                    reader.close()

    def _assign(self, reader: Consumer) -> None:
        facts = kafka.describe_topics(kafka.admin(self._cluster), [self._topic], timeout=_TIMEOUT).get(self._topic)
        if facts is None:
            raise TopicMissing(f"there is no topic {self._topic}")
        if facts.id != self._topic_id:
            self._topic_id, self._next, self._forgot = facts.id, 0, False
            self._places.clear()
        with self._lock:
            wanted = [*self._wanted]
        self._look_for(reader, wanted)

    def _look_for(self, reader: Consumer, files: list[str]) -> None:
        """Go on where the first of these begins; behind what was read, if it was not seen."""
        low, high = reader.get_watermark_offsets(TopicPartition(self._topic, 0), timeout=_TIMEOUT, cached=False)
        begin = min([self._next, *(self._places.get(one, 0 if self._forgot else self._next) for one in files)])
        self._next = min(max(begin, low), high)
        reader.assign([TopicPartition(self._topic, 0, self._next)])

    def _read(self, reader: Consumer) -> None:
        with self._lock:
            new, self._new = self._new, set()
        if new and (self._forgot or any(one in self._places for one in new)):
            self._look_for(reader, [*new])
        message = reader.poll(_POLL)
        if message is None:
            return
        error = message.error()
        if error is not None:
            if error.code() == kafka.KafkaError._PARTITION_EOF:
                return
            raise KafkaException(error)
        self._next = message.offset() + 1
        try:
            piece = piece_of(message.key(), message.value(), message.headers())
        except NoPiece as exc:
            self.dropped["no piece of a file"] += 1
            _log.debug("a record is no piece of a file", topic=self._topic, offset=message.offset(), error=str(exc))
            return
        sha256 = piece.file.sha256
        if sha256 not in self._places:
            self._places[sha256] = message.offset()
            if len(self._places) > _MOST_PLACES:
                self._places.popitem(last=False)
                self._forgot = True
        if not self._is_wanted(sha256):
            return
        taken = self._cache.take(piece)
        if taken is Taken.NO_ROOM:
            self._fails(sha256, f"there is no room for its {piece.file.size} bytes at the gateway", _NOT_AGAIN_FOR)
        elif taken is Taken.WRONG:
            # Another one may come that is right.
            self._fails(sha256, "what came is not what its SHA-256 says; send it again", 0.0)
        elif taken is Taken.WHOLE:
            with self._lock:
                self._failed.pop(sha256, None)
                self._trouble = None

    def _fails(self, sha256: str, why: str, not_again_for: float) -> None:
        with self._lock:
            self._failed.pop(sha256, None)
            self._failed[sha256] = why, time.monotonic() + not_again_for
            if len(self._failed) > _MOST_WANTED:
                self._failed.popitem(last=False)
            if not_again_for:
                self._forget(sha256)

    def _complain(self, why: str) -> None:
        if why != self._trouble:
            with self._lock:
                self._trouble = why
            _log.warning("files for devices cannot be taken for now", topic=self._topic, error=why)
