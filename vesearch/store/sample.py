"""Draw entities of a collection evenly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vesearch.records import Int64
from vesearch.store.catalog import Catalog

_CHOICE = 4  # times as many entities as are wanted are drawn from


def drawn(
    catalog: Catalog, shards: Sequence[int], limit: int, *, seed: int
) -> dict[int, tuple[Int64, Int64]]:
    """Return for some shards ids and table rows of live entities, at most limit in all.

    Of a large collection they are drawn from some of the shards, themselves drawn at random.
    """
    counts = catalog.live_entities()
    known = [shard for shard in shards if shard in counts]
    order = np.random.default_rng([seed, 1]).permutation(len(known))
    sums = np.cumsum([counts[known[at]] for at in order])
    enough = int(np.searchsorted(sums, _CHOICE * limit)) + 1
    found = {
        shard: catalog.live_rows(shard) for shard in sorted(known[at] for at in order[:enough])
    }
    chosen = np.zeros(sum(len(ids) for ids, _ in found.values()), bool)
    chosen[np.random.default_rng(seed).permutation(len(chosen))[:limit]] = True
    picked, start = {}, 0
    for shard, (ids, rows) in found.items():
        own = chosen[start : start + len(ids)]
        start += len(ids)
        picked[shard] = ids[own], rows[own]
    return picked
