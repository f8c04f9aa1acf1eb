"""Features of frozen image encoders: kept over the epochs, stages, arms and scorings of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from narrowtune.data.batching import collate, pixels
from narrowtune.data.encoding import Encoded, encode_prompt
from narrowtune.data.example import Example
from narrowtune.data.feature_store import GIB, FeatureFolder, FeatureStore
from narrowtune.data.images import file_digest
from narrowtune.delta.ledger import hash_tensor
from narrowtune.errors import InputError
from narrowtune.evaluation import PreparedTask, Task
from narrowtune.models.feature_parts import Unfit
from narrowtune.models.feature_trial import try_features
from narrowtune.models.features import Encoder, Feed, Group, Layout, encoder_of, upstream
from narrowtune.models.processing import Processing
from narrowtune.runner.environment import environment
from narrowtune.training import planned_steps

if TYPE_CHECKING:
    from narrowtune.runner.plan import Plan, StagePlan

OFF = "off"
_FORMAT = "narrowtune image features 1"
_PACKAGES = ("torch", "transformers", "pillow", "numpy")
_TRIED = 2  # samples that a class is tried on
_COUNTED = 64  # samples whose images' tokens are counted
# Four images one by one took 2.2 times the seconds of the four together at 4 tokens an image, 1.4
# times at 16, as many from 64 on (the tower of Qwen2.5-VL, 320 and 1,280 wide, on a CPU).
_ENOUGH_TOKENS = 64


@dataclass
class KeptFeatures:
    """What image encoders gave, for all models of a process.

    Attributes:
        store: Where it is kept.
        tell: Told, once each, why features are not kept.
        wanted: False to keep none.
    """

    store: FeatureStore
    tell: Callable[[str], None]
    wanted: bool = True
    _layouts: dict[str, Layout | str] = field(default_factory=dict, repr=False)
    _told: set[str] = field(default_factory=set, repr=False)

    @classmethod
    def at(cls, where: str | None, gib: float, tell: Callable[[str], None]) -> KeptFeatures:
        """As the options `feature_cache` and `feature_cache_gib` say."""
        wanted = where != OFF and gib > 0
        limit = int(gib * GIB) if wanted else 0
        folder = FeatureFolder(Path(where), limit, tell) if wanted and where else None
        return cls(FeatureStore(limit, folder), tell, wanted)

    @contextmanager
    def answering(
        self, plan: Plan, model: nn.Module, device: torch.device, arm: str | None = None
    ) -> Iterator[None]:
        """Answer for a model's image encoder while the context lasts, if it may be and pays.

        Args:
            plan: What the model is taught and asked.
            model: With its weights; what `requires_grad` is trained, where it is an arm's.
            device: Where it lies.
            arm: The arm's name; None for the base, which nobody trains.

        Raises:
            InputError: The experiment wants samples' images encoded alone, and the class can't.
        """
        asked, processing = plan.experiment.model.encode_images == "alone", plan.processing
        alone = asked or encodes_alone(plan)
        samples = _samples(plan) if self.wanted or alone else []
        with fed_by(
            processing, self._feed(processing, samples, (model, device), (asked, alone, arm))
        ):
            yield

    @contextmanager
    def scoring(
        self, tasks: Sequence[Task], model: nn.Module, device: torch.device
    ) -> Iterator[None]:
        """Answer for the image encoder of a model that is only asked, while the context lasts."""
        ours = [task for task in tasks if isinstance(task, PreparedTask)]
        samples = _shown([], ours, ours[0].processing) if ours and self.wanted else []
        if not samples:
            yield
            return
        processing = ours[0].processing
        feed = self._feed(processing, samples, (model, device), (False, False, None))
        with fed_by(processing, feed):
            yield

    def _feed(
        self,
        processing: Processing,
        samples: Sequence[Encoded],
        where: tuple[nn.Module, torch.device],
        how: tuple[bool, bool, str | None],
    ) -> Feed | None:
        """What answers for a model's encoder; None where it is asked itself.

        Args:
            processing: The model's.
            samples: A few with images.
            where: The model, with its device.
            how: Whether samples' images must be encoded alone, whether they shall be, and the arm.
        """
        (model, device), (asked, alone, arm) = where, how
        encoder = encoder_of(model)
        if not samples:
            return None
        layout = self._layout(model, processing, samples)
        if isinstance(layout, str) or encoder is None:
            self._refuse(asked, str(layout))
            return None
        if asked and layout.plans is None:
            self._refuse(asked, layout.alone)
        alone = alone and layout.plans is not None
        if not (alone or self.wanted):
            return None
        depends = upstream(encoder, layout)
        if arm and (trained := [name for name, one in depends.items() if one.requires_grad]):
            self._say(f"{arm}: image features are not kept, since it trains {trained[0]}")
            return None
        context = _context(encoder, layout, depends, processing, device)
        if self.store.folder is not None:
            self.store.folder.meet(context)
        return Feed(encoder, layout, Eyes(processing), self.store, context, alone)

    def _layout(
        self, model: nn.Module, processing: Processing, samples: Sequence[Encoded]
    ) -> Layout | str:
        """What a trial told about the model's class, or why its features can't be kept."""
        if (name := processing.name) not in self._layouts:
            groups = [one.example.images for one in samples]
            make = partial(batch_with, samples, processing)
            try:
                self._layouts[name] = try_features(model, groups, make, Eyes(processing))
            except Unfit as error:
                self._layouts[name] = str(error)
        return self._layouts[name]

    def _refuse(self, asked: bool, why: str) -> None:
        if asked:
            raise InputError(
                f"model.encode_images: alone is not possible with this model: {why}; leave it out"
            )
        self._say(f"image features are not kept: {why}")

    def _say(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self.tell(f"note: {what}")


def encodes_alone(plan: Plan) -> bool:
    """Whether a frozen encoder is shown one sample's images at a time, as far as the class can.

    Left to itself (`auto`) it is where a stage sees a sample again, in another batch, and images
    are so large that they cost no more one by one.
    """
    asked = plan.experiment.model.encode_images
    if asked != "auto":
        return asked == "alone"
    return any(_sees_again(plan, stage) for stage in plan.stages) and (
        _image_tokens(plan) >= _ENOUGH_TOKENS
    )


def _sees_again(plan: Plan, stage: StagePlan) -> bool:
    """Whether some arm goes through the stage's samples more than once, several at a time."""
    taught = (plan.settings(arm, stage) for arm in plan.arms)
    return any(
        one.micro_batch_size > 1 and one.steps > planned_steps(len(stage.rows), one.batch_size)
        for one in taught
    )


def _image_tokens(plan: Plan) -> float:
    """Tokens that an image of the stages has, on the average of the first ones."""
    rows = (row for stage in plan.stages for row in stage.rows if row.example.images)
    first, token = list(islice(rows, _COUNTED)), plan.processing.image_token_id
    images = sum(len(row.example.images) for row in first)
    return sum(one == token for row in first for one in row.input_ids) / max(images, 1)


@contextmanager
def fed_by(processing: Processing, feed: Feed | None) -> Iterator[None]:
    """While the context lasts, batches hold a key where pixels would be, if there is who answers.

    Args:
        processing: Of the model, which makes the batches.
        feed: Answers for the model's encoder; None where it is asked itself.
    """
    if feed is None:
        yield
        return
    processing.feed = feed
    try:
        with feed.feeding():
            yield
    finally:
        processing.feed = None


@dataclass(frozen=True)
class Eyes:
    """How the data room knows and sees images."""

    processing: Processing

    def digest(self, path: Path) -> bytes:
        """SHA-256 of the file."""
        return file_digest(path)

    def pixels(self, groups: Sequence[Group]) -> dict[str, Tensor]:
        """The image processor's tensors."""
        return pixels(groups, self.processing)


def batch_with(
    samples: Sequence[Encoded], processing: Processing, feed: Feed | None
) -> Mapping[str, Tensor]:
    """A left-padded batch, its images answered for by a feed; None for pixels."""
    processing.feed = feed
    try:
        return collate(samples, processing, padding_side="left").inputs
    finally:
        processing.feed = None


def _samples(plan: Plan) -> list[Encoded]:
    """A few samples that have images, of the stages or else of the tasks; as prompts."""
    found: list[Example] = []
    for row in (row for stage in plan.stages for row in stage.rows):
        found += [row.example] if row.example.images else []
        if len(found) == _TRIED:
            break
    tasks = [task.prepared for task in plan.tasks if isinstance(task.prepared, PreparedTask)]
    return _shown(found, tasks, plan.processing)


def _shown(
    found: Sequence[Example], tasks: Sequence[PreparedTask], processing: Processing
) -> list[Encoded]:
    shown = [example for task in tasks for example in task.examples if example.images]
    return [encode_prompt(one, processing) for one in (*found, *shown)[:_TRIED]]


def _context(
    encoder: Encoder,
    layout: Layout,
    depends: Mapping[str, Tensor],
    processing: Processing,
    device: torch.device,
) -> str:
    """All that features depend on but the images, as one word: weights, code, settings, machine."""
    here = environment(device, 1)
    config = getattr(encoder.module, "config", None)
    facts = {
        "format": _FORMAT,
        "class": type(encoder.module).__qualname__,
        "read": layout.read,
        "weights": {name: hash_tensor(one) for name, one in sorted(depends.items())},
        "config": config.to_json_string() if config is not None else "",
        "attention": str(getattr(config, "_attn_implementation", "")),
        "processor": processing.image_settings,
        "packages": {name: here["packages"][name] for name in _PACKAGES},
        "machine": [here["device"], here["device_name"], here["threads"], _instructions()],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _instructions() -> str:
    return str(torch.backends.cpu.get_cpu_capability())
