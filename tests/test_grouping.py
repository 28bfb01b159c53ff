"""Groups by hand: what is joined, what is not, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from vesearch.confidence import SAME, TYPICAL
from vesearch.groups import frequent
from vesearch.groups.columns import Columns
from vesearch.groups.frequent import Cluster, frequent_things
from vesearch.groups.linkage import Forest, linked, medoid
from vesearch.groups.neighbours import Pairs, neighbours
from vesearch.groups.places import lies_with, shared
from vesearch.groups.records import Group, Kind, Similar
from vesearch.groups.things import least_similarity, same_things
from vesearch.indexes import Index
from vesearch.indexes.exact import ExactIndex
from vesearch.projection import Projection
from vesearch.records import Float32, Int64
from vesearch.store.builds import Opened
from vesearch.store.rows import RANKS

BIG, LEFT, RIGHT = (0.1, 0.1, 0.9, 0.9), (0.1, 0.1, 0.4, 0.4), (0.6, 0.6, 0.9, 0.9)


def at(*degrees: float) -> Float32:
    """Return unit vectors in a plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def indexed(ids: Int64, vectors: Float32) -> ExactIndex:
    index = ExactIndex()
    index.build(ids, vectors)
    return index


def opened(index: Index, crowding: float = TYPICAL) -> Opened:
    """Return a build; of typical crowding SAME is a cosine of about 0.81, 36 degrees."""
    empty = np.zeros(0, np.float32)
    plane = np.eye(2, dtype=np.float32)
    projection = Projection(np.zeros(2, np.float32), plane, np.ones(2, np.float32))
    return Opened(index, empty, projection, {"embedder": "builtin", "crowding": crowding})


def place(number: int) -> tuple[float, ...]:
    """Return one of 49 boxes that do not touch."""
    x, y = number % 7 * 0.14, number // 7 * 0.14
    return x, y, x + 0.12, y + 0.12


def columns(*entities: tuple[int, tuple[float, ...]], stuff: tuple[int, ...] = ()) -> Columns:
    """Return entities of images, each with its box; stuff: the places of those that are that."""
    images = [image for image, _ in entities]
    ids = [image * RANKS + images[:i].count(image) for i, image in enumerate(images)]
    boxes = np.array([box for _, box in entities], np.float32).reshape(-1, 4)
    shares = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).round(4)
    is_stuff = np.isin(np.arange(len(ids)), stuff)
    return Columns(np.array(ids, np.int64), boxes, shares, is_stuff)


# --- pairs -> groups ------------------------------------------------------------------------------


def test_a_forest_joins() -> None:
    forest = Forest(5)
    assert forest.groups() == []
    assert forest.join(3, 1) == 1 and forest.join(3, 4) == 1
    assert forest.root(4) == 1 and forest.groups() == [[1, 3, 4]]


def chain(degrees: list[float], least: float) -> list[list[int]]:
    vectors = at(*degrees)
    pairs = np.array([(i, i + 1) for i in range(len(degrees) - 1)], np.int32)
    similarities = (vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(axis=1)
    return linked(pairs, similarities, vectors, least)


def test_a_chain_glues_nothing_together() -> None:
    # of 0, 20 and 41 degrees: the first two come first; the third has cosines of 0.755 and 0.934
    # with them, 0.844 on the average
    assert chain([0, 20, 41], 0.84) == [[0, 1, 2]]
    assert chain([0, 20, 41], 0.85) == [[0, 1]]
    # ten links of 20 degrees: opposite ends are nothing alike
    assert max(map(len, chain([20.0 * i for i in range(11)], 0.84))) <= 3


def test_the_most_similar_pair_comes_first() -> None:
    assert chain([0, 25, 40], 0.9) == [[1, 2]]
    assert linked(np.zeros((0, 2), np.int32), np.zeros(0, np.float32), at(), 0.5) == []


def test_the_medoid_is_most_like_the_others() -> None:
    assert medoid(at(0, 10, 30)) == 1
    assert medoid(at(0, 10)) == 0  # the first of equals


def test_a_pair_may_stand_twice() -> None:
    pairs = np.array([(0, 1), (0, 1), (1, 2)], np.int32)
    assert linked(pairs, np.array([0.9, 0.9, 0.8], np.float32), at(0, 10, 20), 0.9) == [[0, 1, 2]]


def test_no_kind_of_group_crowds_out_another() -> None:
    kinds: list[Kind] = ["copies"] * 9 + ["burst"] * 2 + ["the same thing"] * 5
    found = Similar(tuple(Group(i, kind, ()) for i, kind in enumerate(kinds, 1)), 0)
    assert [group.number for group in found.first(8)] == [1, 2, 3, 10, 11, 12, 13, 14]
    assert found.first(100) == found.groups and Similar((), 0).first(8) == ()


# --- neighbours -----------------------------------------------------------------------------------


def once(found: Iterable[Pairs]) -> dict[tuple[int, int], float]:
    """Return pairs, each once, with their similarities."""
    kept: dict[tuple[int, int], float] = {}
    for asked, other, similarities in found:
        for one, two, similarity in zip(
            asked.tolist(), other.tolist(), similarities.tolist(), strict=True
        ):
            kept[min(one, two), max(one, two)] = similarity
    return kept


class Counting(ExactIndex):
    """Remembers how many queries it was asked, and for how many neighbours."""

    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None
    ) -> tuple[Int64, Float32]:
        self.asked = [*getattr(self, "asked", []), (len(queries), k)]
        return super().search(queries, k, allowed)


def test_neighbours_are_asked_for_once_and_further_where_all_are_near() -> None:
    index, ids = Counting(), np.arange(12, dtype=np.int64)
    index.build(ids, at(*range(10), 90, 180))  # ten in a crowd, two alone
    done: list[int] = []
    found = neighbours(index, ids, 3, least=0.98, told=done.append, most=20)
    pairs = once(found)
    assert len(pairs) == 45 and min(pairs.values()) >= 0.98 and max(two for _, two in pairs) == 9
    assert index.asked == [(12, 3), (10, 12)] and done == [12]


def test_no_further_than_that() -> None:
    index = Counting()
    index.build(np.arange(40, dtype=np.int64), at(*[0.0] * 40))
    list(neighbours(index, np.arange(40), 3, least=0.98, told=lambda _: None, most=20))
    assert [k for _, k in index.asked] == [3, 12, 20]


def test_what_the_index_lacks_finds_nothing() -> None:
    index = indexed(np.array([1, 2], np.int64), at(0, 1))
    found = neighbours(index, np.array([1, 5], np.int64), 3, least=0.5, told=lambda _: None)
    assert list(once(found)) == [(1, 2)]
    assert not once(neighbours(ExactIndex(), np.zeros(0, np.int64), 3, least=0, told=print))


# --- places ---------------------------------------------------------------------------------------


def test_rows_of_ids() -> None:
    known = columns((0, BIG), (0, LEFT), (3, BIG))
    assert known.ids.tolist() == [0, 1, 3000]
    assert known.rows_of(np.array([[3000, 1], [2, 9999]])).tolist() == [[2, 1], [-1, -1]]
    assert columns().rows_of(np.array([3])).tolist() == [-1]


def test_what_boxes_share() -> None:
    iou, smaller = shared(np.array([BIG, LEFT], np.float32), np.array([LEFT, RIGHT], np.float32))
    assert iou.tolist() == pytest.approx([0.09 / 0.64, 0.0], abs=1e-6)
    assert smaller.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_parts_lie_with_their_whole_in_the_same_photo_only() -> None:
    known = columns((0, BIG), (0, LEFT), (1, LEFT), (2, RIGHT))
    whole, others = known.ids[:1], known.ids[1:]
    assert lies_with(others, whole, known).tolist() == [True, False, False]
    assert lies_with(whole, others, known).tolist() == [True]


# --- the same thing -------------------------------------------------------------------------------


def things(known: Columns, vectors: Float32, *, but: tuple[int, ...] = ()) -> list[list[int]]:
    build = opened(indexed(known.ids, vectors))
    images = np.setdiff1d(known.image_ids, but)
    return [t.ids.tolist() for t in same_things(build, known, images, SAME, lambda _: None)]


def test_the_least_similarity_of_a_confidence() -> None:
    build = opened(ExactIndex())
    least = least_similarity(build, SAME)
    sure = build.confidence(np.array([least, least - 1e-3], np.float32)).tolist()
    assert sure[1] < SAME <= sure[0] and least == pytest.approx(0.81, abs=0.01)
    assert least_similarity(build, 1.0) > 1


def test_the_same_thing_is_in_two_photos() -> None:
    # 35.6 degrees are the same; the medoid comes first, then what is most like it
    known = columns((0, BIG), (1, BIG), (2, BIG), (3, BIG))
    assert things(known, at(0, 100, 20, 10)) == [[3000, 0, 2000]]
    assert things(known, at(0, 60, 120, 180)) == []


def test_one_photo_alone_has_nothing_twice() -> None:
    known = columns((0, LEFT), (0, RIGHT), (1, BIG))
    assert things(known, at(0, 0, 90)) == []
    assert things(known, at(0, 5, 8)) == [[1, 1000]]  # one a photo: the most like the first


def test_near_copies_background_and_tiny_entities_do_not_count() -> None:
    dot = (0.5, 0.5, 0.55, 0.55)
    known = columns((0, BIG), (1, BIG), (2, dot), (3, BIG), stuff=(3,))
    vectors = at(0, 1, 2, 3)
    assert things(known, vectors) == [[0, 1000]]
    assert things(known, vectors, but=(1,)) == []


def test_a_part_is_not_told_beside_its_whole() -> None:
    known = columns((0, BIG), (0, LEFT), (1, BIG), (1, LEFT), (2, BIG))
    whole_and_part = at(0, 90, 5, 92, 10)
    assert things(known, whole_and_part) == [[1000, 0, 2000]]
    apart = columns((0, LEFT), (0, RIGHT), (1, LEFT), (1, RIGHT), (2, LEFT))
    assert things(apart, whole_and_part) == [[1000, 0, 2000], [1, 1001]]


def test_an_entity_that_is_gone_is_in_no_group() -> None:
    known = columns((0, BIG), (1, BIG))
    vectors = at(0, 1, 2)
    build = opened(indexed(np.array([0, 1000, 2000], np.int64), vectors))  # image 2 was removed
    found = same_things(build, known, known.image_ids, SAME, lambda _: None)
    assert [thing.ids.tolist() for thing in found] == [[0, 1000]]


# --- frequent things ------------------------------------------------------------------------------


def clusters(known: Columns, vectors: Float32, top: int = 10, sample: int = 100) -> list[Cluster]:
    build = opened(indexed(known.ids, vectors))
    return frequent_things(build, known, top, sample=sample)[0]


def test_what_most_photos_show_comes_first() -> None:
    # alike from a cosine of 0.62, 51.7 degrees
    known = columns(*((i, place(i)) for i in range(6)))
    vectors = at(0, 170, 5, 175, 10, 270)
    assert clusters(known, vectors) == [Cluster(0, 3, 3), Cluster(1000, 2, 2)]
    assert clusters(known, vectors, top=1) == [Cluster(0, 3, 3)]


def test_photos_count_and_not_entities() -> None:
    crowd = [(0, place(i)) for i in range(4)]
    known = columns(*crowd, (1, place(4)), (2, LEFT), (3, RIGHT), (4, place(3)))
    vectors = at(0, 0, 0, 0, 0, 180, 180, 180)
    assert clusters(known, vectors) == [Cluster(2000, 3, 3), Cluster(0, 2, 5)]


def test_of_those_most_like_the_others_the_largest_is_shown() -> None:
    known = columns((0, LEFT), (1, BIG), (2, RIGHT))
    assert [c.entity_id for c in clusters(known, at(10, 12, 8))] == [1000]
    assert [c.entity_id for c in clusters(known, at(10, 45, 8))] == [0]


def test_a_burst_alone_is_nothing_frequent() -> None:
    burst = columns(*((i, BIG) for i in range(4)))
    assert clusters(burst, at(0, 1, 2, 3)) == []
    assert clusters(burst, at(0, 1, 2, 40)) == [Cluster(0, 4, 4)]


def test_a_head_is_not_told_beside_its_dog() -> None:
    known = columns((0, BIG), (0, LEFT), (1, BIG), (1, LEFT))
    assert clusters(known, at(0, 90, 30, 120)) == [Cluster(0, 2, 2)]


def test_a_sample_is_counted_among_all_and_drawn_the_same() -> None:
    known = columns(*((i, place(i)) for i in range(40)))
    vectors = at(*([0, 3] * 15), *([180, 183] * 5))
    found = clusters(known, vectors, sample=12)
    assert [(c.photos, c.entities) for c in found] == [(30, 30), (10, 10)]
    assert found == clusters(known, vectors, sample=12)


def test_where_everything_is_frequent_it_is_still_told() -> None:
    known = columns(*((i, place(i)) for i in range(6)))
    crowded = opened(indexed(known.ids, at(0, 10, 20, 120, 130, 140)), crowding=0.95)
    assert least_similarity(crowded, 0.5) > 1
    assert [c.photos for c in frequent_things(crowded, known, 10)[0]] == [3, 3]


def test_nothing_is_frequent_where_there_is_nothing() -> None:
    assert frequent_things(opened(ExactIndex()), columns(), 5) == ([], 0)
    assert clusters(columns((0, BIG)), at(0)) == []


def test_the_lazy_count_is_the_plain_one() -> None:
    """Greedy covering with every count made anew takes the same groups."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(80, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    images, shares = np.sort(rng.integers(0, 30, 80)), rng.random(80).astype(np.float32)
    alike = vectors @ vectors.T >= 0.8
    left, plain = np.ones(80, np.bool_), list[list[int]]()
    while True:
        counts = [len(np.unique(images[alike[i] & left])) if left[i] else 0 for i in range(80)]
        if max(counts) < 2:
            break
        best = min(range(80), key=lambda i: (-counts[i], -shares[i], i))
        plain.append(np.flatnonzero(alike[best] & left).tolist())
        left[plain[-1]] = False
    lazy = frequent._covered(images, shares, np.packbits(alike, axis=1), 100)
    assert [group.tolist() for group in lazy] == plain
