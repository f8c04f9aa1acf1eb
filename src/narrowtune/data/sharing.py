"""Which samples of a batch have their start in common, and how they lie in one sequence.

Questions on one image start with the same tokens, the image's among them. Written as branches of
one sequence they pass the image through the model once; samples that share nothing may lie in one
sequence too, instead of padding. Who may see whom is said by `places` alone: a token sees those of
its own samples that stand before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, takewhile
from pathlib import Path

from narrowtune.data.encoding import Encoded
from narrowtune.data.images import file_digest
from narrowtune.errors import InputError

# Tokens from which on a common start is worth reading apart from what follows it, and the part of
# its prompts' tokens that a task may at most have to read then (`benchmarks/generation.py`).
LEAST_START = 64
MOST_READ = 2 / 3

# Where each token attends to so many others attention costs as much as all else in the layers.
# Forward and backward on a CPU: 3,800 at hidden size 128, 6,700 at 512; more for wider models.
EQUAL_COST = 4096


@dataclass(frozen=True)
class Limits:
    """What may lie in one sequence.

    Attributes:
        share: Write a common start once. Otherwise samples only take the place of padding.
        fill: Put what is shorter than the batch's longest sequence together, instead of padding.
        tokens: Most tokens in a sequence; one sample that is longer has it for itself.
        longest: Refuse longer samples.
        by_segments: Attention computes nothing of what a token may not see. Then all may lie in one
            sequence, and a branch attends to its own sample alone.
    """

    share: bool = True
    fill: bool = True
    tokens: int | None = None
    longest: int | None = None
    by_segments: bool = False


@dataclass(frozen=True)
class Tree:
    """Samples that start alike, written as one sequence with their common starts once.

    Attributes:
        samples: The samples, in the order their own tokens come.
        ids: The tokens.
        places: Where each sample's tokens stand in `ids`, rising.
    """

    samples: tuple[Encoded, ...]
    ids: tuple[int, ...]
    places: tuple[tuple[int, ...], ...]

    @property
    def images(self) -> tuple[Path, ...]:
        """The images, the same for all samples, each in the sequence once."""
        return self.samples[0].example.images

    @property
    def longest(self) -> Encoded:
        """The sample of the most tokens."""
        return max(self.samples, key=len)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Row:
    """Trees one behind the other in a sequence."""

    trees: tuple[Tree, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens."""
        return tuple(token for tree in self.trees for token in tree.ids)

    @property
    def samples(self) -> tuple[Encoded, ...]:
        """All trees' samples, in order."""
        return tuple(sample for tree in self.trees for sample in tree.samples)

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each tree starts."""
        return tuple(accumulate((len(tree) for tree in self.trees[:-1]), initial=0))

    @property
    def places(self) -> tuple[tuple[int, ...], ...]:
        """Where each sample's tokens stand, in the order of `samples`."""
        return tuple(
            tuple(start + place for place in places)
            for start, tree in zip(self.starts, self.trees, strict=True)
            for places in tree.places
        )

    @property
    def supervised(self) -> tuple[bool, ...]:
        """Whether each token is taught. A shared one never is."""
        marks = [False] * len(self)
        for sample, places in zip(self.samples, self.places, strict=True):
            for place, taught in zip(places, sample.supervised, strict=True):
                marks[place] = marks[place] or taught
        return tuple(marks)

    def __len__(self) -> int:
        return sum(map(len, self.trees))


def lay_out(
    samples: Sequence[Encoded], image_token: int | None, limits: Limits | None = None
) -> tuple[Row, ...]:
    """The samples as few short sequences.

    With `fill`, sequences are filled up to the longest one's length, which takes the place of
    padding and adds nothing to the attention that the padded batch would compute. Attention by
    segments computes no more in one long sequence, which has no padding at all.

    Args:
        samples: A batch.
        image_token: The placeholder's token id; None for a text model.
        limits: What may lie together.

    Raises:
        InputError: A sample is longer than `limits.longest`, or its first token is taught.
    """
    limits = limits or Limits()
    _check(samples, limits)
    trees = grow(samples, image_token, limits)
    if not limits.fill:
        return tuple(Row((tree,)) for tree in trees)
    lengths = [len(tree) for tree in trees]
    room = sum(lengths) if limits.by_segments else max(lengths, default=0)
    if limits.tokens is not None:
        room = min(room, limits.tokens)
    return tuple(Row(tuple(row)) for row in _filled(trees, room))


def grow(
    samples: Sequence[Encoded], image_token: int | None, limits: Limits | None = None
) -> list[Tree]:
    """Trees of the samples that are worth writing together, alone ones among them.

    What two samples share is the start that has the same tokens and shows the same pictures. It
    ends before the first token that predicts a taught one, in either: so a taught token stands
    directly behind the one that predicts it, and is taught once for each sample.
    """
    limits = limits or Limits()
    if not limits.share:
        return [_seed(sample) for sample in samples]
    shown = _shown(samples)
    # Sorted, each sample shares the most with one beside it.
    order = sorted(range(len(samples)), key=lambda n: (shown[n], samples[n].input_ids))
    trees: list[Tree] = []
    before: int | None = None
    for number in order:
        sample = samples[number]
        alike = before is not None and shown[before] == shown[number]
        shared = _shared(trees[-1].samples[-1], sample, image_token) if alike else 0
        if shared and _pays(trees[-1], sample, shared, limits):
            trees[-1] = _grown(trees[-1], sample, shared)
        else:
            trees.append(_seed(sample))
        before = number
    return trees


def groups(samples: Sequence[Encoded], image_token: int | None) -> list[int]:
    """A number for each sample, the same for those whose images it pays to pass once.

    Samples without images are alone: a common system prompt is no reason to be taught together.
    """
    seeing = [sample for sample in samples if sample.example.images]
    trees = grow(seeing, image_token, Limits(by_segments=True))
    numbers = {id(sample): n for n, tree in enumerate(trees) for sample in tree.samples}
    alone = count(len(trees))
    return [numbers[id(sample)] if sample.example.images else next(alone) for sample in samples]


@dataclass(frozen=True)
class Start:
    """What some prompts begin with.

    Attributes:
        places: The prompts, by their places in a list.
        tokens: How many tokens they have in common. Each prompt has one more at least.
    """

    places: tuple[int, ...]
    tokens: int


def common_starts(prompts: Sequence[Encoded], image_token: int | None) -> list[Start]:
    """Each prompt's start, those that are worth reading once among them.

    All images of a prompt lie in its start. What shares too little with others has a start of its
    own, all of it but its last token.

    Returns:
        Nothing where some prompt has no such start.
    """
    shown, ids = _shown(prompts), [prompt.input_ids for prompt in prompts]
    found: list[Start] = []
    for number in sorted(range(len(prompts)), key=lambda number: (shown[number], ids[number])):
        alone = Start((number,), len(ids[number]) - 1)
        if not _all_before(image_token, ids[number], alone.tokens):
            return []
        before = found[-1] if found else None
        if before is None or shown[before.places[-1]] != shown[number]:
            found.append(alone)
            continue
        common = _common(ids[before.places[-1]], ids[number])
        both = Start((*before.places, number), min(before.tokens, common, alone.tokens))
        fits = both.tokens >= LEAST_START and _all_before(image_token, ids[number], both.tokens)
        # Prompts alike in their first words only must not undo what longer starts save.
        if fits and (shown[number] or _spared(both) >= _spared(before)):
            found[-1] = both
        else:
            found.append(alone)
    return found


def pays(starts: Sequence[Start], prompts: Sequence[Encoded]) -> bool:
    """Whether reading these starts once leaves far fewer tokens to read."""
    whole = sum(map(len, prompts))
    return bool(starts) and whole - sum(map(_spared, starts)) <= MOST_READ * whole


def _spared(start: Start) -> int:
    return (len(start.places) - 1) * start.tokens


def _all_before(image_token: int | None, ids: Sequence[int], tokens: int) -> bool:
    """Whether so many first tokens hold all images."""
    return tokens > 0 and (image_token is None or image_token not in ids[tokens:])


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _check(samples: Sequence[Encoded], limits: Limits) -> None:
    problems = [
        f"{sample.example.source}: {len(sample)} tokens are more than the {limits.longest} that"
        " may be packed; shorten it, take it out, or train unpacked"
        for sample in samples
        if limits.longest is not None and len(sample) > limits.longest
    ]
    problems += [
        f"{sample.example.source}: its first token is taught, and nothing stands before it"
        for sample in samples
        if sample.supervised[:1] == (True,)
    ]
    if problems:
        raise InputError(problems)


def _shared(one: Encoded, other: Encoded, image_token: int | None) -> int:
    """Tokens that two samples of the same images may share; 0 if not all images are in them."""
    common = _common(one.input_ids, other.input_ids)
    shared = max(min(common, _untaught(one), _untaught(other)), 0)
    after = other.input_ids[shared:]
    return 0 if image_token is not None and image_token in after else shared


def _untaught(sample: Encoded) -> int:
    """Tokens up to the one that predicts the first taught one, it left out."""
    marks = enumerate(sample.supervised)
    return next((place - 1 for place, taught in marks if taught), len(sample) - 1)


def _pays(tree: Tree, sample: Encoded, shared: int, limits: Limits) -> bool:
    """Whether the sample costs less as a branch: fewer tokens, each of which attends to more."""
    grown = len(tree) + len(sample) - shared
    if limits.tokens is not None and grown > limits.tokens:
        return False
    if limits.by_segments:
        # Alone, a sample's attention leaves out the half that lies ahead; a branch's does not.
        own, whole = len(sample) - shared, len(sample)
        return own * (1 + whole / EQUAL_COST) < whole * (1 + whole / EQUAL_COST / 2)
    return _cost(grown) - _cost(len(tree)) < _cost(len(sample))


def _cost(tokens: int) -> float:
    return tokens * (1 + tokens / EQUAL_COST)


def _seed(sample: Encoded) -> Tree:
    return Tree((sample,), sample.input_ids, (tuple(range(len(sample))),))


def _grown(tree: Tree, sample: Encoded, shared: int) -> Tree:
    own = range(len(tree), len(tree) + len(sample) - shared)
    return Tree(
        (*tree.samples, sample),
        (*tree.ids, *sample.input_ids[shared:]),
        (*tree.places, (*tree.places[-1][:shared], *own)),
    )


def _filled(trees: Iterable[Tree], room: int) -> list[list[Tree]]:
    """First fit, longest first: each tree goes into the first row that has room for it."""
    rows: list[list[Tree]] = []
    left: list[int] = []
    for tree in sorted(trees, key=len, reverse=True):
        fitting = (number for number, free in enumerate(left) if free >= len(tree))
        number = next(fitting, len(rows))
        if number == len(rows):
            rows.append([])
            left.append(room)
        rows[number].append(tree)
        left[number] -= len(tree)
    return rows


def _shown(samples: Sequence[Encoded]) -> list[tuple[int, ...]]:
    """The images of each sample, numbered as they first come; the same bytes, the same number.

    Only files as long as another are read.
    """
    paths = dict.fromkeys(path for sample in samples for path in sample.example.images)
    sizes = {path: path.stat().st_size for path in paths}
    many = Counter(sizes.values())
    numbers: dict[Path | bytes, int] = {}
    numbered: dict[Path, int] = {}
    for path, size in sizes.items():
        name = file_digest(path) if many[size] > 1 else path
        numbered[path] = numbers.setdefault(name, len(numbers))
    return [tuple(numbered[path] for path in sample.example.images) for sample in samples]
