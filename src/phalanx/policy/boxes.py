"""Boxes of packets: products of sets, one a field of the packet, and which of them overlap.

A field's set is kept as spans [first, after last), sorted, apart from each other. So a list of
prefixes, and what it leaves out, is one set, and what a rule matches is one box. ``BoxTable``
finds the overlaps of many boxes, exactly, with NumPy; ``escape`` finds what others leave of one,
and ``cut`` all of it.

IPv4 and IPv6 addresses stand on one line, IPv6 behind IPv4. A packet's source and target are of
one version, so what a box has of the other version is no part of it.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, summarize_address_range
from itertools import chain
from socket import AF_INET, AF_INET6, inet_pton

import numpy as np
from numpy.typing import NDArray

from phalanx.domain.errors import PhalanxError
from phalanx.domain.flowspec import IpVersion, Spans

FieldBox = tuple[Spans, ...]
"""A set for each field; source and target addresses are the first two, if there are any."""
Walk = list[tuple[FieldBox, bool]]
Rows = NDArray[np.int64]
Bits = NDArray[np.uint8]

V6 = 1 << 32
"""Where IPv6 begins on the line of addresses."""
LAST_ADDRESS = V6 + (1 << 128)
LINE: Spans = ((0, LAST_ADDRESS),)
VERSIONS: dict[IpVersion, Spans] = {4: ((0, V6),), 6: ((V6, LAST_ADDRESS),)}
UNIVERSE = {4: "0.0.0.0/0", 6: "::/0"}
HOLDS, WITHIN, LOW, LOW_BACK, HIGH, HIGH_BACK = 1, 2, 4, 8, 16, 32
"""How a box i stands to a box j that it overlaps: i has all of j; j has all of i; i may have the
lowest corner of j (without the bit it has not); j may have that of i; the highest corners."""
CHUNK = 1 << 19
"""Pairs that are compared at once."""
MOST_PARTS = 20_000
"""Parts that a box may be cut into."""


class Undecided(Exception):  # noqa: N818  # no error: a stated limit of effort
    """What is left of a box was not found within the steps allowed."""


class OverlapLimitError(PhalanxError):
    """Rules overlap in too many ways to be worked out exactly."""


def prefix_span(text: str) -> tuple[int, int]:
    """Return where a prefix or an address without host bits stands on the line of addresses."""
    begin, _, length = text.partition("/")
    if ":" in begin:
        base, bits = V6 + int.from_bytes(inet_pton(AF_INET6, begin)), 128
    else:
        base, bits = int.from_bytes(inet_pton(AF_INET, begin)), 32
    return base, base + (1 << bits - int(length or bits))


def line(prefixes: Iterable[str]) -> Spans:
    """Return the addresses that any of the prefixes has."""
    return merged(map(prefix_span, prefixes))


def address(place: int) -> IPv4Address | IPv6Address:
    """Return the address at a place on the line."""
    return IPv4Address(place) if place < V6 else IPv6Address(place - V6)


def prefixes(addresses: Spans) -> tuple[str, ...]:
    """Return the fewest prefixes with exactly these addresses, IPv4 first."""
    return tuple(
        str(each)
        for whole in VERSIONS.values()
        for first, after in meet(addresses, whole)
        for each in summarize_address_range(address(first), address(after - 1))
    )


def merged(spans: Iterable[tuple[int, int]]) -> Spans:
    """Return a set from spans in any order that may overlap."""
    out: list[tuple[int, int]] = []
    for first, after in sorted(spans):
        if out and first <= out[-1][1]:
            out[-1] = out[-1][0], max(after, out[-1][1])
        elif first < after:
            out.append((first, after))
    return tuple(out)


def meet(one: Spans, other: Spans) -> Spans:
    """Return what two sets have in common."""
    if one == other:
        return one
    out, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        first, after = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if first < after:
            out.append((first, after))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return tuple(out)


def minus(one: Spans, other: Spans) -> Spans:
    """Return what the first set has and the second has not."""
    bounds = (-1, *chain.from_iterable(other), LAST_ADDRESS + 1)
    gaps = zip(bounds[::2], bounds[1::2], strict=True)
    return meet(one, tuple((first, after) for first, after in gaps if first < after))


def real(box: FieldBox) -> FieldBox | None:
    """Return what of a box can be packets: both addresses of one version; None: nothing."""
    source, target = box[0], box[1]
    if not all(box):
        return None
    versions = _versions(source), _versions(target)
    if versions[0] == versions[1]:
        return box
    if not (both := versions[0] & versions[1]):
        return None
    whole = VERSIONS[4 if both == 1 else 6]
    return meet(source, whole), meet(target, whole), *box[2:]


def common(one: FieldBox, other: FieldBox) -> FieldBox | None:
    """Return the packets that two boxes have in common; None: there is none."""
    shared = []
    for mine, its in zip(one, other, strict=True):
        if not (both := meet(mine, its)):
            return None
        shared.append(both)
    return real(tuple(shared))


def without(box: FieldBox, other: FieldBox) -> Iterator[FieldBox]:
    """Yield boxes apart from each other: the packets of ``box`` that the other does not have."""
    head = list(box)
    for field, its in enumerate(other):
        if rest := minus(head[field], its):
            if piece := real((*head[:field], rest, *head[field + 1 :])):
                yield piece
            head[field] = meet(head[field], its)


def cut(box: FieldBox, others: Iterable[FieldBox]) -> list[FieldBox]:
    """Return all that others leave of a box, in few boxes apart from each other.

    Raises:
        OverlapLimitError: if they are more than ``MOST_PARTS`` on the way.

    """
    parts = [box]
    for other in others:
        parts = [
            piece
            for part in parts
            for piece in (without(part, other) if common(part, other) else (part,))
        ]
        if len(parts) > MOST_PARTS:
            raise OverlapLimitError("the rules overlap in too many ways to be cut apart")
    for field in range(len(box)):  # what differs in one field alone is one box
        alike: dict[FieldBox, list[Spans]] = {}
        for part in parts:
            alike.setdefault((*part[:field], *part[field + 1 :]), []).append(part[field])
        parts = [
            (*rest[:field], merged(chain.from_iterable(sets)), *rest[field:])
            for rest, sets in alike.items()
        ]
    return parts


def escape(box: FieldBox, walk: Walk, steps: list[int]) -> FieldBox | None:
    """Return packets of ``box`` that come through a walk, or meet a box on it that stops them.

    Args:
        box: the packets that set out.
        walk: boxes in order; each takes its packets away, or stops the search (True).
        steps: how many steps may be made, in one entry; it is counted down.

    Returns:
        Some of them; None if each packet is taken away.

    Raises:
        Undecided: if there is no step left.

    """
    open_ = [(box, 0)]
    while open_:
        piece, at = open_.pop()
        for at in range(at, len(walk)):  # noqa: B020
            steps[0] -= 1
            if steps[0] < 0:
                raise Undecided
            taken, stops = walk[at]
            shared = common(piece, taken)
            if shared is not None:
                if stops:
                    return shared
                open_ += [(each, at + 1) for each in without(piece, taken)]
                break
        else:
            return piece
    return None


def _versions(addresses: Spans) -> int:
    return (addresses[0][0] < V6) | (addresses[-1][1] > V6) << 1


class _Field:
    """One field of all boxes: by row the number of its set, and the span around that set.

    Arrays hold 64 bits, so bounds of IPv6 are labelled: in their order, with room between them.
    """

    def __init__(self, sets: Sequence[Spans]) -> None:
        self.numbers: dict[Spans, int] = {}
        # Equal sets are mostly one object: all objects are told apart first, by address.
        ids = np.fromiter(map(id, sets), np.int64, len(sets))
        _, firsts, back = np.unique(ids, return_index=True, return_inverse=True)
        kinds = [self.numbers.setdefault(sets[at], len(self.numbers)) for at in firsts.tolist()]
        self._label()
        self.value = np.array(kinds, np.int64)[back]
        self.low, self.high = self.first_of[self.value], self.after_of[self.value]

    def _label(self) -> None:
        bounds = {b for b in chain.from_iterable(chain.from_iterable(self.numbers)) if b > V6}
        self.bounds = sorted(bounds | {V6, LAST_ADDRESS})
        step = (1 << 61) // len(self.bounds)
        self.labels = {bound: V6 + at * step for at, bound in enumerate(self.bounds)}
        self.first_of = self.after_of = self.size = self.starts = self.ends = np.zeros(0, np.int64)
        self.many = np.zeros(0, np.bool_)
        self._enter(self.numbers)

    def _enter(self, sets: Iterable[Spans]) -> None:
        """Append more sets; their spans end where IPv6 begins, so that each has one version."""
        flat, sizes, hulls, label = [], [], [], self._labelled
        for each in sets:
            hulls.append((label(each[0][0]), label(each[-1][1]), len(each) > 1))
            own = each
            if each[0][0] < V6 < each[-1][1]:
                own = (*meet(each, VERSIONS[4]), *meet(each, VERSIONS[6]))
            sizes.append(len(own))
            flat += [(label(first), label(after)) for first, after in own]
        spans = np.array(flat, np.int64).reshape(-1, 2)
        hull = np.array(hulls, np.int64).reshape(-1, 3)
        self.starts, self.ends = (
            np.append(self.starts, spans[:, 0]),
            np.append(self.ends, spans[:, 1]),
        )
        self.first_of = np.append(self.first_of, hull[:, 0])
        self.after_of = np.append(self.after_of, hull[:, 1])
        self.many = np.append(self.many, hull[:, 2] > 0)
        self.size = np.append(self.size, np.array(sizes, np.int64))
        self.begin = np.cumsum(self.size) - self.size

    def _labelled(self, bound: int) -> int:
        return bound if bound <= V6 else self.labels[bound]

    def put(self, row: int, spans: Spans) -> None:
        """Set the field of one row."""
        if row >= len(self.value):
            room = np.zeros(len(self.value) + 64, np.int64)
            self.value, self.low, self.high = (
                np.append(each, room) for each in (self.value, self.low, self.high)
            )
        if spans not in self.numbers:
            self.numbers[spans] = len(self.numbers)
            crowded = [b for span in spans for b in span if b > V6 and not self._make_room(b)]
            if crowded:
                self._label()
                self.low, self.high = self.first_of[self.value], self.after_of[self.value]
            else:
                self._enter([spans])
        number = self.numbers[spans]
        self.value[row] = number
        self.low[row], self.high[row] = self.first_of[number], self.after_of[number]

    def _make_room(self, bound: int) -> bool:
        """Label one more bound; False: its neighbours' labels leave no room."""
        if bound not in self.labels:
            at = bisect(self.bounds, bound)
            below, above = self.labels[self.bounds[at - 1]], self.labels[self.bounds[at]]
            if above - below < 2:
                return False
            self.bounds.insert(at, bound)
            self.labels[bound] = (below + above) // 2
        return True

    def compare(self, i: Rows, j: Rows) -> tuple[Rows, Bits]:
        """Return in which versions the sets of two lists of rows overlap, and how they stand.

        The first has 1 for IPv4 (and for what is no address), 2 for IPv6, 3 for both, 0 for none.
        """
        first, after, other_first, other_after = (
            self.low[i],
            self.high[i],
            self.low[j],
            self.high[j],
        )
        low, high = np.maximum(first, other_first), np.minimum(after, other_after)
        versions = np.where(low < high, (low < V6) | ((high > V6) * np.int64(2)), 0)
        down, up = first <= other_first, after >= other_after
        back_down, back_up = first >= other_first, after <= other_after
        holds, held = down & up, back_down & back_up
        if self.many.any():
            a, b = self.value[i], self.value[j]
            if len(odd := np.nonzero((versions > 0) & (self.many[a] | self.many[b]))[0]):
                versions[odd] = self._exact(a[odd], b[odd], self._overlap)
            if len(odd := np.nonzero(holds & self.many[a])[0]):
                holds[odd] = self._exact(b[odd], a[odd], self._within)
            if len(odd := np.nonzero(held & self.many[b])[0]):
                held[odd] = self._exact(a[odd], b[odd], self._within)
        bits = np.zeros(len(i), np.uint8)
        for at, each in enumerate((holds, held, down, back_down, up, back_up)):
            bits |= each.view(np.uint8) << np.uint8(at)
        return versions, bits

    def _exact(self, one: Rows, other: Rows, test: Callable[[Rows, Rows], Rows]) -> Rows:
        """Apply a test to pairs of sets, a part at a time, each pair of sets once."""
        keys, back = np.unique(one * len(self.size) + other, return_inverse=True)
        one, other = np.divmod(keys, len(self.size))
        parts = np.cumsum(self.size[one]) // (8 * CHUNK)
        cuts = np.nonzero(np.diff(parts))[0] + 1
        both = zip(np.split(one, cuts), np.split(other, cuts), strict=True)
        return np.concatenate([test(a, b) for a, b in both])[back]

    def _overlap(self, one: Rows, other: Rows) -> Rows:
        pair, span, offsets = self._spans(one)
        at = self._last(other[pair], self.ends[span] - 1)
        hit = (at >= self.begin[other[pair]]) & (self.ends[at] > self.starts[span])
        return np.bitwise_or.reduceat(hit * np.where(self.starts[span] < V6, 1, 2), offsets)

    def _within(self, one: Rows, other: Rows) -> Rows:
        """Return for pairs of sets whether the second has all of the first."""
        pair, span, offsets = self._spans(one)
        at = self._last(other[pair], self.starts[span])
        held = (at >= self.begin[other[pair]]) & (self.ends[at] >= self.ends[span])
        return np.bitwise_and.reduceat(held.astype(np.int64), offsets)

    def _spans(self, sets: Rows) -> tuple[Rows, Rows, Rows]:
        """Return all spans of some sets: whose each is, which it is, and where each set begins."""
        sizes = self.size[sets]
        offsets = np.cumsum(sizes) - sizes
        pair = np.repeat(np.arange(len(sets)), sizes)
        return pair, np.arange(len(pair)) - offsets[pair] + self.begin[sets][pair], offsets

    def _last(self, sets: Rows, at: Rows) -> Rows:
        """Return for each set its last span that begins at a place or before it."""
        low, high = self.begin[sets] - 1, self.begin[sets] + self.size[sets] - 1
        for _ in range(int(self.size.max()).bit_length()):
            middle = (low + high + 1) // 2
            fits = (self.starts[middle] <= at) | (low >= high)
            low, high = (
                np.where(fits, np.maximum(low, np.minimum(middle, high)), low),
                np.where(fits, high, middle - 1),
            )
        return low


def seen_back(bits: Bits) -> Bits:
    """Return how j stands to i, from how i stands to j."""
    return np.asarray(((bits & 21) << 1) | ((bits & 42) >> 1), np.uint8)


class BoxTable:
    """Boxes by row, and which of them overlap.

    Args:
        boxes: all of as many fields, none of them empty (``real``).

    """

    def __init__(self, boxes: Sequence[FieldBox], fields: int) -> None:
        self._fields = [_Field([box[field] for box in boxes]) for field in range(fields)]

    def put(self, row: int, box: FieldBox) -> None:
        """Set the box of a row; a new row is the one after the last."""
        for field, spans in zip(self._fields, box, strict=True):
            field.put(row, spans)

    def compare(self, i: Rows, j: Rows) -> tuple[Rows, Rows, Bits]:
        """Return of two lists of rows the pairs that overlap, and how they stand to each other."""
        bits, before = np.full(len(i), 63, np.uint8), np.full(len(i), 3)
        for at, field in enumerate(self._fields):
            if len(field.numbers) == 1 and at > 1:
                continue
            versions, how = field.compare(i, j)
            if at == 1:  # both addresses of a packet are of one version
                versions &= before
            before = versions
            bits &= how
            if not versions.all():
                kept = np.nonzero(versions)[0]
                i, j, bits, before = i[kept], j[kept], bits[kept], before[kept]
        return i, j, bits

    def beside(self, row: int, rows: Rows) -> tuple[Rows, Bits]:
        """Return those of some rows that overlap one row, and how that one stands to each."""
        narrow = rows
        for field in self._fields[:6]:
            if field.value[row] != 0 or len(field.numbers) > 1:
                low, high = field.low[narrow], field.high[narrow]
                narrow = narrow[(low < field.high[row]) & (high > field.low[row])]
        _, found, bits = self.compare(np.full(len(narrow), row), narrow)
        return found, bits

    def candidates(self, rows: Rows) -> Iterator[tuple[Rows, Rows]]:
        """Yield the pairs of rows that may overlap, in parts; each pair once, in either order.

        They overlap in those two of the fields that tell most apart.
        """
        ranked = sorted(
            ((*_overlaps(field.low[rows], field.high[rows]), field) for field in self._fields),
            key=lambda each: each[0],
        )
        (_, order, end, _), (*_, second) = ranked[:2]
        rows = rows[order]
        for found in _join(end, second.low[rows], second.high[rows]):
            for i, j in _expand(*found):
                yield rows[i], rows[j]


def _overlaps(low: Rows, high: Rows) -> tuple[int, Rows, Rows]:
    """Return how many pairs of spans overlap, their order, and in that where those of each end."""
    order = np.argsort(low, kind="stable")
    end = np.searchsorted(low[order], high[order])
    return int(end.sum()) - len(low) * (len(low) + 1) // 2, order, end


def _join(end: Rows, low: Rows, high: Rows) -> Iterator[tuple[Rows, Rows, Rows, Rows]]:
    """Yield which places overlap: each with those behind it up to its end, in a second field too.

    A range of places is cut into blocks of 4, 16, 64, … places, and rests of at most three at its
    ends. The spans of a block overlap a range's own where they begin in it, or it in them: in the
    block's own order of beginnings, each of the two is a range again. So no pair is looked at
    that does not overlap in both fields, but for the rests.

    Yields:
        places, an index, and for each place the range of the index that it is joined with.

    """
    begin = np.arange(1, len(end) + 1)
    places, index = begin - 1, begin - 1
    starts = np.unique(low)
    rank, past = np.searchsorted(starts, low), np.searchsorted(starts, high)
    shift, most = 0, len(starts) + 1
    while len(places):
        inner, outer = -(-begin // 4), end // 4
        done = inner >= outer
        inner, outer = np.where(done, end, inner * 4), np.where(done, end, outer * 4)
        sides = (
            np.concatenate((places, places)),
            np.concatenate((begin, outer)),
            np.concatenate((inner, end)),
        )
        kept = sides[2] > sides[1]
        at, first, after = (each[kept] for each in sides)
        if shift == 0:
            yield at, index, first, after
        elif len(at):
            size = after - first
            at = np.repeat(at, size)
            block = np.arange(len(at)) - np.repeat(np.cumsum(size) - size - first, size)
            used = np.zeros((len(index) >> shift) + 1, np.bool_)
            used[block] = True
            inside = np.nonzero(used[index >> shift])[0]
            own = inside >> shift
            order = np.argsort(own * most + rank[inside])
            keys = (own * most + rank[inside])[order]
            found = (np.searchsorted(keys, block * most + x[at]) for x in (rank, past))
            yield at, inside[order], *found
            order = np.argsort(block * most + rank[at])
            keys = (block * most + rank[at])[order]
            found = (
                np.searchsorted(keys, own * most + x) for x in (rank[inside] + 1, past[inside])
            )
            yield inside, at[order], *found
        places, begin, end = places[~done], inner[~done] // 4, outer[~done] // 4
        shift += 2


def _expand(places: Rows, index: Rows, begin: Rows, end: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Yield the pairs of what was joined, in parts."""
    kept = np.nonzero(end > begin)[0]
    places, begin, size = places[kept], begin[kept], (end - begin)[kept]
    cuts = np.nonzero(np.diff(np.cumsum(size) // CHUNK))[0] + 1
    for part in np.split(np.arange(len(size)), cuts):
        count = size[part]
        first = np.repeat(begin[part] - (np.cumsum(count) - count), count)
        yield np.repeat(places[part], count), index[first + np.arange(len(first))]
