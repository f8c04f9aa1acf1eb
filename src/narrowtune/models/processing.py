"""What turns words and images into a model's inputs, for any model folder, without torchvision.

The real tokenizer, image processor and processor class do the work; this module only loads the
image half of a processor where its video half asks for torchvision, and asks the processor itself
how many tokens an image takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any, Protocol

import torch
from PIL import Image
from transformers import AutoTokenizer

from narrowtune.errors import InputError
from narrowtune.models.image_half import generation_ends, load_processor

PROBE = "Xq7textq7X"
TOKEN_TYPES = "mm_token_type_ids"
Tokens = tuple[list[int], list[tuple[int, int]]]
"""Token ids, and each token's character span."""


class Turn(Protocol):
    """A message as the data room writes it: a part with a `text` is words, any other an image."""

    @property
    def role(self) -> str: ...  # noqa: D102

    @property
    def parts(self) -> Sequence[object]: ...  # noqa: D102


class Processing:
    """A model's tokenizer, chat template and image processor behind one small surface.

    Args:
        name: The model's name, for error messages.
        tokenizer: A fast tokenizer (offsets are needed to tell the answer's tokens).
        processor: The multimodal processor; None for a text model.
        config: The model's config; gives the length limit and the image token.
        end_token_ids: Tokens that end an answer; more are read from the chat template.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        processor: Any = None,
        config: Any = None,
        end_token_ids: Sequence[int] = (),
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                f"{name}: its tokenizer has no fast form (a tokenizer.json); answers cannot be"
                " told from prompts without character offsets"
            )
        self.name = name
        self.tokenizer = tokenizer
        self.processor = processor
        self.image_token_id = _image_token_id(processor, config)
        self.max_length = _max_length(config)
        self.feed: Any = None  # what answers for the model's image encoder at present
        self._known_ends = tuple(end_token_ids)
        self._counted = lru_cache(maxsize=65536)(self._count)

    @property
    def has_chat_template(self) -> bool:
        """Whether the model was given a way to write a conversation."""
        return bool(self._template_owner.chat_template)

    @property
    def _template_owner(self) -> Any:
        owner = self.processor
        return owner if getattr(owner, "chat_template", None) else self.tokenizer

    @property
    def pad_token_id(self) -> int:
        """The filler; masked everywhere, so a model without one borrows its end token."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else (self.end_token_ids or (0,))[0])

    @cached_property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: the template's own, the tokenizer's, generation_config's."""
        found = [*self._template_end(), self.tokenizer.eos_token_id, *self._known_ends]
        return tuple(dict.fromkeys(int(token) for token in found if token is not None))

    @property
    def eos_token_id(self) -> int | None:
        """The end token written where a template writes none."""
        eos = self.tokenizer.eos_token_id
        return int(eos) if eos is not None else next(iter(self.end_token_ids), None)

    def end_strings(self) -> tuple[str, ...]:
        """The end tokens as they are written in a rendered conversation."""
        tokens = self.tokenizer.convert_ids_to_tokens(list(self.end_token_ids))
        return tuple(str(token) for token in tokens)

    def render(self, messages: Sequence[Turn], add_generation_prompt: bool) -> str:
        """The conversation as the model reads it.

        A base model without a chat template gets the turns' words one after the other, nothing
        between: write the separator you want into the prompt.

        Raises:
            InputError: The template refuses the conversation, or it has images and the model
                takes none.
        """
        if self.image_token_id is None and any(_is_image(p) for m in messages for p in m.parts):
            raise InputError(f"it has an image, but {self.name} takes text only")
        if not self.has_chat_template:
            return "".join(self._flat(message) for message in messages)
        chat = [{"role": m.role, "content": self._content(m)} for m in messages]
        try:
            text = self._apply(chat, add_generation_prompt)
            return text + self._missing_header if add_generation_prompt else text
        except Exception as error:  # jinja's own kinds, and whatever a template's code raises
            raise InputError(f"{self.name}'s chat template refuses it: {error}") from error

    def tokenize(self, text: str) -> Tokens:
        """Token ids and each token's character span; special tokens as transformers adds them."""
        return self.tokenize_all([text])[0]

    def tokenize_all(self, texts: Sequence[str]) -> list[Tokens]:
        """What `tokenize` gives for each text; many at once take half the time, and all cores."""
        found: dict[int, Tokens] = {}
        added = [self._adds_special_tokens(text) for text in texts]
        for special in set(added):
            places = [place for place, adds in enumerate(added) if adds == special]
            out = self.tokenizer(
                [texts[place] for place in places],
                return_attention_mask=False,
                return_token_type_ids=False,
                add_special_tokens=special,
                verbose=False,
            )
            # The tokenizer's own answers: transformers' lists of the same take as long again.
            own = ((one.ids, one.offsets) for one in out.encodings)
            found.update(zip(places, own, strict=True))
        return [found[place] for place in range(len(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        """The words of these tokens, without special tokens and outer blanks."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return str(text).strip()

    def image_tokens(self, size: tuple[int, int]) -> int:
        """How many placeholder tokens one image of this (width, height) takes."""
        return self.image_token_counts((size,))[0]

    def image_token_counts(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """Placeholder tokens of each image of one example.

        Several at once, since some processors cut a lone image into tiles and not one of many.

        Raises:
            InputError: The image processor refuses such an image (too narrow, say).
        """
        try:
            return self._counted(tuple(sizes))
        except ValueError as error:
            shown = ", ".join(f"{width} x {height}" for width, height in sizes)
            raise InputError(f"{self.name} takes no image of {shown} pixels: {error}") from error

    def pixel_inputs(
        self, images: Sequence[Image.Image], per_example: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        """The real image processor's tensors for a batch; {} when it has no images.

        Args:
            images: All images of the batch, in the order of the examples.
            per_example: How many belong to each example; zeros for text-only ones.
        """
        if not images:
            return {}
        queue = iter(images)
        nested = [[next(queue) for _ in range(count)] for count in per_example if count]
        # Placeholders go along and are dropped again: not every processor works without text.
        text = [self._image_token * len(group) for group in nested]
        out = self.processor(images=nested, text=text, padding=True, return_tensors="pt")
        words = {*self.tokenizer.model_input_names, TOKEN_TYPES}
        return {name: tensor for name, tensor in out.items() if name not in words}

    @property
    def image_settings(self) -> str:
        """All settings of its image processor as JSON; empty for a text model."""
        found = getattr(self.processor, "image_processor", None)
        return "" if found is None else f"{type(found).__name__} {found.to_json_string()}"

    def token_type_inputs(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Per-token modality ids, for models whose processor hands them out."""
        make = getattr(self.processor, "create_mm_token_type_ids", None)
        if make is None or TOKEN_TYPES not in self.processor.model_input_names:
            return {}
        types = make(input_ids.tolist())
        return {TOKEN_TYPES: torch.tensor(types, dtype=input_ids.dtype)}

    # -- the chat template ---------------------------------------------------------------------

    def _apply(self, chat: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        owner = self._template_owner
        text = owner.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return str(text)

    def _content(self, message: Turn) -> str | list[dict[str, str]]:
        return self._blocks(message) if self._takes_blocks else self._flat(message)

    @staticmethod
    def _blocks(message: Turn) -> list[dict[str, str]]:
        return [
            {"type": "image"} if _is_image(part) else {"type": "text", "text": _text(part)}
            for part in message.parts
        ]

    def _flat(self, message: Turn) -> str:
        return "".join(
            self._image_token if _is_image(part) else _text(part) for part in message.parts
        )

    @cached_property
    def _takes_blocks(self) -> bool:
        """Multimodal templates read lists of blocks; text ones print a list's code instead."""
        if self.image_token_id is None:
            return False
        chat = [{"role": "user", "content": [{"type": "text", "text": PROBE}]}]
        try:
            text = self._apply(chat, False)
        except Exception:
            return False
        return PROBE in text and "'text'" not in text

    @property
    def _image_token(self) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(self.image_token_id))

    def _adds_special_tokens(self, text: str) -> bool:
        """As transformers does: templates of tokenizers are complete, those of processors not."""
        bos = self.tokenizer.bos_token
        if bos and text.startswith(bos):
            return False
        return self.processor is not None or not self.has_chat_template

    @cached_property
    def _tried(self) -> tuple[str, str, str]:
        """What the template writes for a question, for asking it, and for it and its answer."""
        wrap: Any = (lambda t: [{"type": "text", "text": t}]) if self._takes_blocks else str
        question = {"role": "user", "content": wrap("hello")}
        answer = {"role": "assistant", "content": wrap(PROBE)}
        try:
            asked, opened = self._apply([question], False), self._apply([question], True)
            return asked, opened, self._apply([question, answer], False)
        except Exception:  # a template that refuses this refuses real conversations by name
            return "", "", ""

    @cached_property
    def _missing_header(self) -> str:
        """The answer's header, for templates that know no generation prompt."""
        asked, opened, answered = self._tried
        header = answered.partition(PROBE)[0].removeprefix(asked)
        return header if asked == opened and header.strip() else ""

    def _template_end(self) -> list[int]:
        """The special token that the template writes right after an answer, if it writes one."""
        if not self.has_chat_template:
            return []
        tail = self._tried[2].rpartition(PROBE)[2].lstrip()
        ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
        return [token for token in ids[:1] if token in _special_ids(self.tokenizer)]

    # -- image tokens --------------------------------------------------------------------------

    def _count(self, sizes: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
        alone = len(sizes) == 1 and self._formula_holds
        return tuple(self._formula(sizes)) if alone else self._measure(sizes)

    def _formula(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        turned = [(height, width) for width, height in sizes]
        counts = self.processor._get_num_multimodal_tokens(image_sizes=turned).num_image_tokens
        return [int(count) for count in counts]

    @cached_property
    def _formula_holds(self) -> bool:
        """Whether the processor's formula agrees with its deeds; the formula spares the pixels."""
        sizes = ((84, 84), (200, 110), (90, 310))
        try:
            return all(self._formula((s,)) == list(self._measure((s,))) for s in sizes)
        except (AttributeError, KeyError, NotImplementedError, TypeError):
            return False

    def _measure(self, sizes: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
        """Counts by running the real processor on blank images of these sizes."""
        blanks = [Image.new("RGB", size) for size in sizes]
        text = "\n".join([self._image_token] * len(sizes))
        out = self.processor(images=[blanks], text=[text], add_special_tokens=False)
        ids = [int(token) for token in out["input_ids"][0]]
        runs = [len(list(run)) for same, run in groupby(ids, self._is_placeholder) if same]
        plain = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(runs) != len(sizes) or len(ids) - sum(runs) != len(plain) - len(sizes):
            raise InputError(
                f"{self.name}: its processor writes more around an image than the image token"
                f" {self._image_token!r} repeated; such models are not supported yet"
            )
        return tuple(runs)

    def _is_placeholder(self, token: int) -> bool:
        return token == self.image_token_id


def load_processing(
    model: str, revision: str | None = None, trust_remote_code: bool = False
) -> Processing:
    """The processing of a bundled model, a local folder or a hub id.

    Args:
        model: Which one.
        revision: Commit of a hub model.
        trust_remote_code: Whether Python code that comes with the model may run.

    Raises:
        InputError: It has no tokenizer, or a multimodal model no image processor.
    """
    from narrowtune.models.skeleton import load_config, resolve

    folder = resolve(model)
    config = load_config(model, revision, trust_remote_code)
    source: Any = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        processor = load_processor(folder, config, **source)
        tokenizer = processor.tokenizer if processor is not None else None
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder, **source)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise InputError(
            f"{model}: its tokenizer or image processor cannot be loaded: {why}"
        ) from error
    if len(tokenizer) - len(_special_ids(tokenizer)) < 2:
        # transformers makes an empty one, without a word, where the files are missing
        raise InputError(f"{model}: it has no tokenizer files (tokenizer.json), only a config")
    return Processing(model, tokenizer, processor, config, generation_ends(folder, revision))


def _image_token_id(processor: Any, config: Any) -> int | None:
    if processor is None or getattr(processor, "image_processor", None) is None:
        return None
    candidates = (
        getattr(processor, "image_token_id", None),
        getattr(config, "image_token_id", None),
        getattr(config, "image_token_index", None),
    )
    return next((int(token) for token in candidates if token is not None), None)


def _max_length(config: Any) -> int | None:
    if config is None:
        return None
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def _special_ids(tokenizer: Any) -> set[int]:
    added = tokenizer.added_tokens_decoder
    marked = {int(index) for index, token in added.items() if token.special}
    return marked | set(tokenizer.all_special_ids)


def _is_image(part: object) -> bool:
    return getattr(part, "text", None) is None


def _text(part: object) -> str:
    return str(getattr(part, "text", ""))
