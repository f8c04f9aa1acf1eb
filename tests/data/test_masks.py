"""Loss falls on the answers and their end tokens, and on nothing else: printed and exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_processors as tiny

from narrowtune.data import Example, ImagePart, Message, TextPart
from narrowtune.data.encoding import encode, encode_all, encode_prompt, show_mask, taught_texts
from narrowtune.errors import InputError
from narrowtune.models.processing import Processing


def say(role: str, *parts: str | Path) -> Message:
    made = (TextPart(part) if isinstance(part, str) else ImagePart(part) for part in parts)
    return Message(role, tuple(made))


def talk(*messages: Message, source: str = "data.jsonl:7") -> Example:
    return Example("1", messages, source, (messages[-1].text,))


TWO_TURNS = talk(
    say("system", "Be brief."),
    say("user", "How many?"),
    say("assistant", "3 squares"),
    say("user", "And red?"),
    say("assistant", "42"),
)


@pytest.mark.parametrize(
    ("template", "special", "expected"),
    [
        (tiny.CHATML, {}, ["3 squares<|im_end|>", "42<|im_end|>"]),
        (tiny.QWEN_VL, {}, ["3 squares<|im_end|>", "42<|im_end|>"]),
        (
            tiny.LLAMA3,
            {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
            ["3 squares<|eot_id|>", "42<|eot_id|>"],
        ),
        # The end token is the template's even where the tokenizer calls another one eos.
        (
            tiny.LLAMA3,
            {"bos_token": "<|begin_of_text|>", "eos_token": "<|endoftext|>"},
            ["3 squares<|eot_id|>", "42<|eot_id|>"],
        ),
        # What follows the generation prompt is the model's to say: here an empty thought.
        (tiny.THINKING, {}, ["3 squares<|im_end|>", "<think>\n\n</think>\n\n42<|im_end|>"]),
        # No template: the words one after the other, and the end token that nobody else writes.
        (None, {"eos_token": "</s>"}, ["3 squares", "42</s>"]),
    ],
)
def test_text_templates(template: str | None, special: dict[str, str], expected: list[str]) -> None:
    processing = tiny.text_model(template, **special)
    encoded = encode(TWO_TURNS, processing)
    print(show_mask(encoded, processing))
    assert taught_texts(encoded, processing) == expected
    assert encoded.supervised[-1], "the sequence stops at the end token"
    assert encoded.supervised_tokens == sum(encoded.supervised)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen2_5_vl", ["3 squares<|im_end|>", "42<|im_end|>"]),
        ("llava", [" 3 squares", " 42</s>"]),  # its template writes no end token
        ("llava_next", [" 3 squares</s>", " 42</s>"]),
        ("llava_onevision", ["3 squares<|im_end|>", "42<|im_end|>"]),
    ],
)
def test_image_templates(
    name: str,
    expected: list[str],
    family: Callable[[str], Processing],
    picture: Callable[..., Path],
) -> None:
    processing = family(name)
    example = talk(
        say("user", picture(), "How many?"),
        say("assistant", "3 squares"),
        say("user", "And red?"),
        say("assistant", "42"),
    )
    encoded = encode(example, processing)
    print(show_mask(encoded, processing))
    assert taught_texts(encoded, processing) == expected
    placeholders = [i for i, t in enumerate(encoded.input_ids) if t == processing.image_token_id]
    assert len(placeholders) == processing.image_tokens((84, 84))
    assert not any(encoded.supervised[i] for i in placeholders)


def test_the_printed_mask_shows_everything() -> None:
    processing = tiny.text_model(tiny.CHATML)
    encoded = encode(talk(say("user", "How many?"), say("assistant", "42")), processing)
    assert show_mask(encoded, processing) == (
        "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n⟦42<|im_end|>⟧"
    )


@pytest.mark.parametrize(
    "name", ["qwen2_5_vl", "qwen2_vl", "llava", "llava_next", "llava_onevision"]
)
def test_what_is_taught_is_what_will_be_asked(
    name: str, family: Callable[[str], Processing], picture: Callable[..., Path]
) -> None:
    processing = family(name)
    example = talk(say("user", picture(), "What is shown here?"), say("assistant", "A red circle"))
    encoded, prompt = encode(example, processing), encode_prompt(example, processing)
    assert encoded.input_ids[: encoded.prompt_length] == prompt.input_ids
    assert prompt.prompt_length == len(prompt) and prompt.supervised_tokens == 0
    assert not any(encoded.supervised[: encoded.prompt_length])
    assert all(encoded.supervised[encoded.prompt_length :])


def test_templates_that_strip_blanks() -> None:
    processing = tiny.text_model(tiny.LLAMA3, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    example = talk(say("user", "How many?\n"), say("assistant", "  42 "))
    assert taught_texts(encode(example, processing), processing) == ["42<|eot_id|>"]


def test_a_question_that_holds_the_answer_is_not_taught() -> None:
    processing = tiny.text_model(tiny.CHATML)
    example = talk(say("user", "assistant 42? 42<"), say("assistant", "42"))
    encoded = encode(example, processing)
    assert taught_texts(encoded, processing) == ["42<|im_end|>"]


def test_templates_without_a_generation_prompt() -> None:
    """The header that they write before an answer is prompt, never taught."""
    template = tiny.CHATML.replace("add_generation_prompt", "false")
    processing = tiny.text_model(template)
    example = talk(say("user", "How many?"), say("assistant", "42"))
    assert taught_texts(encode(example, processing), processing) == ["42<|im_end|>"]
    assert processing.render(example.prompt, True).endswith("<|im_start|>assistant\n")


def test_a_rewriting_template_is_refused() -> None:
    template = tiny.CHATML.replace("m['content'] }}", "m['content'] | replace('4', '5') }}")
    processing = tiny.text_model(template)
    with pytest.raises(InputError, match=r"data\.jsonl:7: .*rewrites the answer"):
        encode(talk(say("user", "How many?"), say("assistant", "42")), processing)


def test_a_refusing_template_is_quoted() -> None:
    template = "{{ raise_exception('no system turns') }}"
    processing = tiny.text_model(template)
    with pytest.raises(InputError, match=r"data\.jsonl:7: .*no system turns"):
        encode(talk(say("user", "How many?"), say("assistant", "42")), processing)


def test_an_image_for_a_text_model_is_refused(picture: Callable[..., Path]) -> None:
    processing = tiny.text_model(tiny.CHATML)
    with pytest.raises(InputError, match=r"data\.jsonl:7: .*takes text only"):
        encode(talk(say("user", picture()), say("assistant", "42")), processing)


def test_the_image_token_in_words_is_refused(family: Callable[[str], Processing]) -> None:
    example = talk(say("user", "What is <|image_pad|>?"), say("assistant", "42"))
    with pytest.raises(InputError, match=r"data\.jsonl:7: .*1 image tokens for 0 images"):
        encode(example, family("qwen2_5_vl"))


def test_an_image_that_the_model_cannot_take(
    family: Callable[[str], Processing], picture: Callable[..., Path]
) -> None:
    example = talk(say("user", picture("line.png", (600, 2))), say("assistant", "42"))
    with pytest.raises(InputError, match=r"data\.jsonl:7: .*takes no image of 600 x 2 pixels"):
        encode(example, family("qwen2_5_vl"))


def test_all_that_is_too_long_is_named() -> None:
    processing = tiny.text_model(tiny.CHATML)
    long = "very long " * 300
    examples = [
        talk(say("user", text), say("assistant", "42"), source=f"data.jsonl:{line}")
        for line, text in enumerate(["short", long, "short", long], start=1)
    ]
    with pytest.raises(InputError) as caught:
        encode_all(examples, processing)
    assert [p.split(": ")[0] for p in caught.value.problems] == ["data.jsonl:2", "data.jsonl:4"]
    assert "maximum of tiny-text, 512" in caught.value.problems[0]
    with pytest.raises(InputError, match=r"data\.jsonl:1: .*more than max_length, 8"):
        encode_all(examples[:1], processing, max_length=8)
    with pytest.raises(InputError, match=r"data\.jsonl:2: .*maximum of tiny-text"):
        encode_prompt(examples[1], processing)
