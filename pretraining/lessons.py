"""What is taught: the abilities of the world, two helper tasks, and drills without a picture."""

from __future__ import annotations

from random import Random

from narrowtune.pico import HELD_OUT, TARGETS
from narrowtune.pico.canvas import COLOURS
from narrowtune.pico.icons import ICONS, PLURALS
from narrowtune.pico.nature import HEATS, PHASES, SPECIES, STATES, TISSUES
from narrowtune.pico.objects import places
from narrowtune.pico.pages import PAGE_WORDS, SIGN_WORDS
from narrowtune.pico.picture import Cells, Picture
from narrowtune.pico.world import DRAWERS

STREAM = "pretrain"  # neither "train" nor "test": the pictures are no one else's
EXTRA = {"places": places}

# Facts about cells that the vision tower is taught to tell (docs/pico.md names them).
LABELS: dict[str, tuple[str, ...]] = {
    "thing": ("", *ICONS),
    "colour": ("", *COLOURS),
    "bar": tuple(COLOURS),
    "level": tuple(str(n) for n in range(1, 8)),
    "digit": ("", *(str(n) for n in range(10))),
    "word": (*PAGE_WORDS, *SIGN_WORDS),
    "sky": ("day", "night"),
    "science": (*PHASES, *STATES, *HEATS),
    "beak": ("short", "long"),
    "crest": ("bare", "spiky"),
    "wing": ("plain", "barred"),
    "tail": ("fork", "fan"),
    "tissue": tuple(TISSUES),
    "stain": ("eosin", "azure"),
    "sick": ("yes", "no"),
    "hour": tuple(str(n) for n in range(1, 13)),
    "minute": tuple(str(5 * n) for n in range(12)),
    "tip": ("", *(str(5 * n) for n in range(12))),
    "left": ("", *ICONS),
    "right": ("", *ICONS),
    "above": ("", *ICONS),
    "below": ("", *ICONS),
    "number": tuple(str(n) for n in range(10)),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"  # besides: which letters stand in each cell


def picture(task: str, index: int, seed: int) -> Picture:
    """A picture of the pretraining stream, also of the helper tasks."""
    drawer = EXTRA.get(task) or DRAWERS[task]
    return drawer(Random(f"{task}/{STREAM}/{seed}/{index}"))


def words() -> list[str]:
    """Every word that an answer may need: the drills make the language model able to say it."""
    times = [f"{h:02d}:{5 * m:02d}" for h in range(1, 13) for m in range(12)]
    names = [*ICONS, *COLOURS, *PAGE_WORDS, *SIGN_WORDS, *SPECIES, *TISSUES, "eosin", "azure"]
    return [*names, *times, *(str(n) for n in range(10)), "yes", "no", "day", "night"]


def drill(rng: Random) -> tuple[str, str]:
    """A question without a picture: repeat a word, or find the letter of an option."""
    pool = words()
    if rng.random() < 0.4:
        word = rng.choice(pool)
        return f"Say {word}", word
    kind = rng.choice((list(ICONS), list(COLOURS), [*PHASES, *STATES, *HEATS], list(SPECIES)))
    chosen = rng.sample(kind, rng.choice((3, 4)))
    lines = "".join(f"\n{a}. {b}" for a, b in zip("ABCD", chosen, strict=False))
    right = rng.randrange(len(chosen))
    return f"Which letter is {chosen[right]}?{lines}", "ABCD"[right]


def surroundings(cells: Cells) -> Cells:
    """The facts of each cell, with what stands beside it and the number in its row."""
    more: Cells = {}
    if "thing" in cells:
        moves = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}
        for side, (down, across) in moves.items():
            near = [(c // 3 + down, c % 3 + across) for c in range(9)]
            more[side] = tuple(
                cells["thing"][3 * r + k] if 0 <= r < 3 and 0 <= k < 3 else "" for r, k in near
            )
    if "digit" in cells:
        rows = ["".join(cells["digit"][3 * r : 3 * r + 3]) for r in range(3)]
        more["number"] = tuple(rows[c // 3] for c in range(9))
    return cells | more


Pairs = tuple[tuple[str, str], ...]


def lists(facts: Cells, task: str, rng: Random) -> list[tuple[str, Pairs]]:
    """Questions answered item by item, as " star|red| boat|no|": only the values are learned.

    A value follows its key's token at once, so one layer of attention suffices to find it.

    Finding what a word of the question means in the picture is the hard part of every ability, and
    one answer per picture teaches it slowly; a list teaches it a dozen times per picture.
    """
    if "thing" not in facts:
        return []
    cells = {t: c for c, t in enumerate(facts["thing"]) if t}
    absent = rng.sample([t for t in ICONS if t not in cells], 3)
    hues = {t: facts["colour"][c] for t, c in cells.items()} | dict.fromkeys(absent, "no")
    known = dict.fromkeys(cells, "yes") | dict.fromkeys(absent, "no")
    found = [("Which colours?", hues), ("What is there?", known)]
    if task == "infographics":
        found.append(("Which numbers?", {t: facts["digit"][_mate(facts, c)]
                                         for t, c in cells.items()}))  # fmt: skip
    return [(question, _shuffled(pairs, rng)) for question, pairs in found]


def _mate(facts: Cells, cell: int) -> int:
    """The cell of the digit in the same row."""
    row = cell // 3 * 3
    return next(c for c in range(row, row + 3) if facts["digit"][c])


def _shuffled(pairs: dict[str, str], rng: Random) -> Pairs:
    kept = list(pairs.items())
    rng.shuffle(kept)
    return tuple(kept)


def letters(rng: Random) -> tuple[str, Pairs]:
    """The letter of every lettered option, item by item, without a picture."""
    pool = rng.choice((list(ICONS), list(COLOURS), [*PHASES, *STATES, *HEATS], list(SPECIES)))
    chosen = rng.sample(pool, rng.choice((3, 4)))
    lines = "".join(f"\n{a}. {b}" for a, b in zip("ABCD", chosen, strict=False))
    pairs = dict(zip(chosen, "ABCD", strict=False))
    return f"Which letters?{lines}", _shuffled(pairs, rng)


def texts(seed: int, per_task: int = 200) -> list[str]:
    """Texts for the tokenizer: questions and answers of all tasks, drills, and plain English."""
    rng = Random(f"texts/{seed}")
    found = [PROSE, " ".join(PLURALS.values())] * 3
    for task in (*HELD_OUT, *TARGETS, *EXTRA):
        for index in range(per_task):
            for question, answer in picture(task, index, seed).questions:
                found += [question, answer, f" {answer}"]
    for _ in range(5 * per_task):
        found += list(drill(rng))
    return found


PROSE = """
The quick brown fox jumps over the lazy dog. It was a bright cold day, and the clocks were
striking. People say that a picture is worth a thousand words; we would like to know which ones.
One, two, three, four, five, six, seven, eight, nine, ten: how many are there, and what is the
number? She said that they would go to the market in the morning and come back before night.
Answer the question with a single word, a number, a letter, yes or no. If you do not know, say so.
There is nothing new under the sun, but there is always something to see from the other side.
First, second, third, last. Who, what, when, where, why and how. I am, you are, he is, we are.
This, that, these, those; all, some, none; more, less, most, least; big, small, old, new, good.
Some time ago a man and a woman lived in a little house by the sea with their children.
"""
