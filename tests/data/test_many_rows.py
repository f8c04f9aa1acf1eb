"""Many rows together are what each is alone, cost what their number costs, and take little room."""

from __future__ import annotations

import gc
import pickle
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_processors as tiny
from PIL import Image

from narrowtune.data import Example, ImagePart, Message, TextPart
from narrowtune.data.collector import collector_paused
from narrowtune.data.encoding import (
    TOGETHER,
    Encoded,
    encode,
    encode_all,
    encode_prompt,
    encode_prompts,
)
from narrowtune.data.images import image_problem, image_size, open_image
from narrowtune.errors import InputError
from narrowtune.models.processing import Processing

Family = Callable[[str], Processing]

# A template that looks at the words: it hides thoughts, and greets who greets.
MOODY = tiny.CHATML.replace(
    "{{ m['content'] }}",
    "{% if m['content'].startswith('hello') %}hi! {% endif %}"
    "{{ m['content'].split('</think>')[-1] }}",
)
STRIPS_PROMPTS = tiny.CHATML.replace(
    "{{ m['content'] }}",
    "{% if m['role'] == 'user' %}{{ m['content'] | trim }}{% else %}{{ m['content'] }}{% endif %}",
)
TEMPLATES: dict[str, tuple[str | None, dict[str, str]]] = {
    "chatml": (tiny.CHATML, {}),
    "llama3": (tiny.LLAMA3, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}),
    "thinking": (tiny.THINKING, {}),
    "none": (None, {"eos_token": "</s>", "bos_token": "<s>"}),
    "moody": (MOODY, {}),
    "strips prompts": (STRIPS_PROMPTS, {}),
}
WORDS = [
    "42",
    " 42",
    "hello",
    "a\nb ",
    "é 😀",
    "<s>yes",
    "</think>so",
    "assistant\n42",
    "  x",
    "no\n",
]


def text_row(draw: random.Random, line: int) -> Example:
    turns = [Message("system", (TextPart(draw.choice(WORDS)),))] if draw.random() < 0.3 else []
    for _ in range(draw.randint(1, 3)):
        turns.append(Message("user", (TextPart(" ".join(draw.choices(WORDS, k=2))),)))
        turns.append(Message("assistant", (TextPart(draw.choice(WORDS)),)))
    return Example(str(line), tuple(turns), f"data.jsonl:{line}", (turns[-1].text,))


def image_row(draw: random.Random, line: int, pictures: Sequence[Path]) -> Example:
    row = text_row(draw, line)
    shown = [ImagePart(draw.choice(pictures)) for _ in range(draw.randint(0, 2))]
    first = next(place for place, turn in enumerate(row.messages) if turn.role == "user")
    parts = [*shown, *row.messages[first].parts, TextPart("which?")]
    draw.shuffle(parts)
    turns = [*row.messages]
    turns[first] = Message("user", tuple(parts))
    return replace(row, messages=tuple(turns))


def alone(rows: Sequence[Example], processing: Processing) -> list[Encoded | str]:
    """Each row by itself: the template is never known from another one."""
    found: list[Encoded | str] = []
    for row in rows:
        try:
            found.append(encode(row, processing))
        except InputError as error:
            found.append(str(error))
    return found


def check_same(rows: Sequence[Example], processing: Processing) -> int:
    """That rows together are what they are alone, refused ones too; how many are sound."""
    expected = alone(rows, processing)
    sound = [row for row, one in zip(rows, expected, strict=True) if isinstance(one, Encoded)]
    assert encode_all(sound, processing) == [one for one in expected if isinstance(one, Encoded)]
    refused = [one for one in expected if isinstance(one, str)]
    if refused:
        with pytest.raises(InputError) as caught:
            encode_all(rows, processing)
        assert list(caught.value.problems[:20]) == refused[:20]
    return len(sound)


@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_together_are_texts_alone(name: str) -> None:
    template, special = TEMPLATES[name]
    draw = random.Random(name)
    rows = [text_row(draw, line) for line in range(120)]
    assert check_same(rows, tiny.text_model(template, **special)) > 20


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "llava_next", "llava_onevision"])
def test_images_together_are_images_alone(
    name: str, family: Family, picture: Callable[..., Path]
) -> None:
    draw = random.Random(name)
    pictures = [picture(f"{n}.png", size, n) for n, size in enumerate([(84, 84), (60, 150)])]
    rows = [image_row(draw, line, pictures) for line in range(60)]
    assert check_same(rows, family(name)) > 10


def test_problems_come_in_the_order_of_the_lines() -> None:
    """What the template refuses and what is too long are found at different times."""
    processing = tiny.text_model(
        "{% if 'bad' in messages[0]['content'] %}{{ raise_exception('bad') }}{% endif %}"
        + tiny.CHATML
    )
    said = {3: "bad", 5: "long " * 400, 7: "bad", TOGETHER + 9: "long " * 400}
    rows = [
        Example(
            str(line),
            (
                Message("user", (TextPart(said.get(line, "fine")),)),
                Message("assistant", (TextPart("42"),)),
            ),
            f"d:{line}",
            ("42",),
        )
        for line in range(TOGETHER + 20)
    ]
    for encoded in (encode_all, encode_prompts):
        with pytest.raises(InputError) as caught:
            encoded(rows, processing)
        lines = [int(told.split(":")[1]) for told in caught.value.problems]
        assert lines == sorted(said)


def test_twice_the_rows_are_twice_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is rendered twice, its kind is learned once, and the tokenizer is called for many."""
    processing = tiny.text_model(tiny.CHATML)
    calls: Counter[str] = Counter()
    render, tokenizer = processing.render, processing.tokenizer

    def counted(*args: object, **named: object) -> str:
        calls["rendered"] += 1
        return render(*args, **named)  # type: ignore[arg-type]

    def told(texts: list[str], **named: object) -> object:
        calls["tokenized"] += 1
        return tokenizer(texts, **named)

    asked = [
        Example(str(n), (*one.messages[-2:],), f"d:{n}", ("",))
        for n, one in enumerate(text_row(random.Random(n), n) for n in range(4 * TOGETHER))
    ]
    assert processing.end_token_ids
    monkeypatch.setattr(processing, "render", counted)
    monkeypatch.setattr(type(processing), "end_strings", lambda self: ("<|im_end|>",))
    monkeypatch.setattr(processing, "tokenizer", _Calling(tokenizer, told))
    for times in (1, 2, 4):
        calls.clear()
        encode_all(asked[: times * TOGETHER], processing)
        assert calls == {"rendered": 2 * times * TOGETHER + 2, "tokenized": times}


class _Calling:
    """A tokenizer that is called otherwise."""

    def __init__(self, real: object, call: Callable[..., object]) -> None:
        self._real, self._call = real, call

    def __call__(self, *args: object, **named: object) -> object:
        return self._call(*args, **named)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


@pytest.mark.parametrize("special", [{}, {"bos_token": "<s>"}])
def test_prompts_together_are_prompts_alone(special: dict[str, str]) -> None:
    """A text that starts with its own bos gets no second one, whatever stands beside it."""
    draw = random.Random(0)
    processing = tiny.text_model(None, **special)
    rows = [text_row(draw, line) for line in range(40)]
    assert encode_prompts(rows, processing) == [encode_prompt(row, processing) for row in rows]


def test_a_check_of_prompts_is_told_with_its_line() -> None:
    draw = random.Random(0)
    processing = tiny.text_model(tiny.CHATML)

    def check(prompt: Encoded) -> None:
        if prompt.example.id in ("2", "5"):
            raise InputError("no")

    with pytest.raises(InputError) as caught:
        encode_prompts([text_row(draw, line) for line in range(9)], processing, check=check)
    assert caught.value.problems == ("data.jsonl:2: no", "data.jsonl:5: no")


# -- room --------------------------------------------------------------------------------------


def test_ids_and_marks_are_tuples_to_whoever_asks() -> None:
    row = text_row(random.Random(0), 1)
    one = Encoded(row, (7, 300_000, 7), (False, True, True), 1)
    assert one.input_ids == (7, 300_000, 7) and one.supervised == (False, True, True)
    assert one.supervised[1] is True and len(one) == 3 and one.supervised_tokens == 2
    assert one == Encoded.of(row, [7, 300_000, 7], b"\0\1\1", 1)
    assert hash(one) == hash(Encoded.of(row, [7, 300_000, 7], b"\0\1\1", 1))
    other = replace(one, supervised=(False, False, True))
    assert other != one and other.supervised_tokens == 1 and one.supervised_tokens == 2
    assert pickle.loads(pickle.dumps(one)) == one
    assert "300000" in repr(one)


def test_rows_take_a_few_bytes_a_token() -> None:
    processing = tiny.text_model(tiny.CHATML)
    row = text_row(random.Random(0), 1)
    long = Message("user", (TextPart("What is shown here? " * 40),))
    rows = [replace(row, messages=(long, row.messages[-1])) for _ in range(300)]
    encode_all(rows, processing)
    tracemalloc.start()
    encoded = encode_all(rows, processing)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tokens = sum(map(len, encoded))
    assert tokens > 60_000
    assert taken < 6 * tokens + 600 * len(rows)


def test_the_collector_comes_back() -> None:
    assert gc.isenabled()
    with pytest.raises(InputError), collector_paused():
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the outer one still wants it paused"
        raise InputError("whatever happens")
    assert gc.isenabled()


# -- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp", "gif", "bmp"])
def test_a_picture_is_opened_once_a_version(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{kind}"
    Image.linear_gradient("L").resize((60, 40)).convert("RGB").save(path)
    opened: list[object] = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(file) or real(file))
    for _ in range(3):
        assert image_problem(path) is None
        assert image_size(path) == (60, 40)
    assert len(opened) == 1
    Image.new("RGB", (8, 9)).save(path)
    assert image_size(path) == (8, 9) and len(opened) == 2
    path.write_bytes(path.read_bytes()[:40])
    assert image_problem(path) is not None
    with pytest.raises(InputError, match=f"image {path} "):
        image_size(path)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_a_picture_on_its_side_is_told_upright(kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a.{kind}"
    Image.new("RGB", (640, 400)).save(path, exif=exif)
    assert image_problem(path) is None
    assert image_size(path) == open_image(path).size == (400, 640)
