"""Pieces become files, or are dropped with a reason; whatever is under its hash is whole."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from gateway.file_cache import SPARE, FileCache, Taken
from schemas.files import MOST_BYTES, PIECE, File, NoPiece, Piece, describe, piece_of, pieces


def image(seed: int, size: int = 3 * PIECE + 17) -> bytes:
    return random.Random(seed).randbytes(size)


def put(cache: FileCache, data: bytes, name: str = "image.bin") -> list[Taken]:
    return [cache.take(piece) for piece in pieces(describe(data, name), data)]


@pytest.mark.parametrize("size", [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17])
def test_a_file_is_there_when_its_last_piece_is(tmp_path: Path, size: int) -> None:
    cache, data = FileCache(tmp_path), image(1, size)
    said = put(cache, data)
    assert said == [Taken.MORE] * (len(said) - 1) + [Taken.WHOLE]
    sha256 = describe(data, "x").sha256
    assert (sha256 in cache, cache.size_of(sha256)) == (True, size)
    assert b"".join(cache.read(sha256, at, 1000) or b"" for at in range(0, size, 1000)) == data
    assert cache.read(sha256, size, 1000) == b""
    assert cache.read("0" * 64, 0, 1000) is None
    assert put(cache, data) == [Taken.KNOWN] * len(said)
    cache.close()


def test_pieces_in_any_order_twice_and_of_several_files_in_turn(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    files = [image(seed) for seed in range(3)]
    every = [piece for data in files for piece in pieces(describe(data, "x"), data)] * 2
    random.Random(7).shuffle(every)
    for piece in every:
        cache.take(piece)
    for data in files:
        assert cache.read(describe(data, "x").sha256, 0, len(data)) == data
    assert cache.completed == 3
    cache.close()


def test_a_file_of_another_hash_is_dropped_and_counted_and_may_come_again(tmp_path: Path) -> None:
    cache, data = FileCache(tmp_path), image(1)
    file = describe(data, "x")
    broken = [*pieces(file, data)]
    broken[1] = Piece(file=file, number=1, data=bytes(PIECE))
    assert [cache.take(piece) for piece in broken][-1] is Taken.WRONG
    assert file.sha256 not in cache
    assert cache.dropped == {"wrong hash": 1}
    assert [path.name for path in tmp_path.iterdir()] == []
    assert put(cache, data)[-1] is Taken.WHOLE


def test_a_start_knows_what_is_whole_and_forgets_the_rest(tmp_path: Path) -> None:
    one, two = image(1), image(2)
    before = FileCache(tmp_path)
    put(before, one)
    for piece in [*pieces(describe(two, "x"), two)][:2]:
        before.take(piece)
    # Killed here: nothing is closed.
    after = FileCache(tmp_path)
    assert describe(one, "x").sha256 in after
    assert describe(two, "x").sha256 not in after
    assert [path.name for path in tmp_path.iterdir()] == [describe(one, "x").sha256]
    assert put(after, two)[-1] is Taken.WHOLE


def test_what_was_not_used_for_the_longest_makes_room(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, most_bytes=2500)
    images = [image(seed, 1000) for seed in range(3)]
    names = [describe(data, "x").sha256 for data in images]
    put(cache, images[0])
    put(cache, images[1])
    assert cache.read(names[0], 0, 10) is not None
    put(cache, images[2])
    assert [name in cache for name in names] == [True, False, True]
    assert cache.size == 2000
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[0], names[2]])
    assert put(cache, image(9, 2600)) == [Taken.NO_ROOM]
    assert cache.dropped == {"made room": 1, "no room": 1}
    # What is read is used, though it was opened long ago.
    assert cache.read(names[2], 0, 10) is not None
    assert cache.read(names[0], 0, 10) is not None
    put(cache, images[1])
    assert [name in cache for name in names] == [True, True, False]
    # Who held it open lets go of it: else its room is none.
    assert names[2] in cache._open
    assert cache.read(names[2], 0, 10) is None
    assert names[2] not in cache._open
    cache.close()


def test_of_the_disk_enough_is_left_to_others(tmp_path: Path) -> None:
    free = [SPARE + 3_000]
    cache = FileCache(tmp_path, free=lambda: free[0])
    images = [image(seed, 2_000) for seed in range(2)]
    assert put(cache, images[0]) == [Taken.WHOLE]
    free[0] -= 2_000
    # There is room for it when the other one goes, and for something larger there is none at all.
    assert put(cache, image(8, 3_001)) == [Taken.NO_ROOM]
    assert cache.size == 2_000, "nothing goes for what has no room all the same"
    assert put(cache, images[1]) == [Taken.WHOLE]
    assert (len(cache), cache.dropped) == (1, {"made room": 1, "no room": 1})
    free[0] = 0
    assert put(cache, image(9, 100)) == [Taken.NO_ROOM]
    assert len(cache) == 1


def test_pieces_that_say_another_size_spoil_nothing(tmp_path: Path) -> None:
    cache, data = FileCache(tmp_path), image(1)
    file = describe(data, "x")
    liar = File(sha256=file.sha256, size=2 * PIECE, name="x")
    lies = [Piece(file=liar, number=number, data=bytes(PIECE)) for number in range(2)]
    said = [cache.take(one) for pair in zip([*pieces(file, data)], [*lies, *lies], strict=True) for one in pair]
    assert said[-2] is Taken.WHOLE
    assert Taken.WRONG in said
    assert cache.read(file.sha256, 0, len(data)) == data
    cache.close()


def test_files_on_their_way_are_bounded(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    for seed in range(20):
        data = image(seed)
        cache.take(next(pieces(describe(data, "x"), data)))
    assert len([*tmp_path.iterdir()]) == 8
    assert cache.dropped == {"too many at once": 12}


def test_a_file_that_somebody_removed_is_not_here(tmp_path: Path) -> None:
    cache, data = FileCache(tmp_path), image(1)
    put(cache, data)
    sha256 = describe(data, "x").sha256
    (tmp_path / sha256).unlink()
    assert cache.read(sha256, 0, 10) is None
    assert sha256 not in cache


def test_pieces_survive_the_topic() -> None:
    data = image(3)
    for piece in pieces(describe(data, "Bild №1.bin"), data):
        assert piece_of(piece.key, piece.data, piece.headers) == piece


def test_what_is_no_piece_is_told_from_one() -> None:
    data = image(3, 100)
    good = next(pieces(describe(data, "x"), data))
    headers = dict(good.headers)
    wrong = [
        (None, good.data, headers),
        (b"\xff" * 64, good.data, headers),
        (b"A" * 64, good.data, headers),
        (good.key, good.data + b"x", headers),
        (good.key, None, headers),
        (good.key, good.data, {}),
        *(
            (good.key, good.data, headers | {"size": value})
            for value in (b"", b"0", b"-1", b"x", b"%d" % (MOST_BYTES + 1))
        ),
        *((good.key, good.data, headers | {"piece": value}) for value in (b"1", b"-1", b"\xff")),
        *((good.key, good.data, headers | {"name": value}) for value in (b"", b"\xff", b"n" * 256)),
    ]
    for key, value, said in wrong:
        with pytest.raises(NoPiece):
            piece_of(key, value, list(said.items()))
    for data in (b"",):
        with pytest.raises(NoPiece):
            describe(data, "x")


def test_a_file_says_in_how_many_pieces_it_travels() -> None:
    for size, count in itertools.starmap(lambda a, b: (a, b), ((1, 1), (PIECE, 1), (PIECE + 1, 2))):
        assert File(sha256="0" * 64, size=size, name="x").pieces == count
