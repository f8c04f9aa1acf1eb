"""A model that is handed features says, learns and answers what it does of pixels, bit by bit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1] / "data"))
import tiny_processors as tiny
from fed_models import (
    alike,
    answered,
    batch_for,
    counted,
    deepstack,
    feed_of,
    learned,
    rows_of,
    seen_features,
    tried,
)

from narrowtune.data.feature_store import GIB, FeatureFolder, FeatureStore
from narrowtune.models.feature_parts import Unfit
from narrowtune.models.features import encoder_of
from narrowtune.models.generation import generate_answers
from narrowtune.models.loading import load_model
from narrowtune.models.processing import Processing, load_processing
from narrowtune.models.skeleton import load_config, model_class

SIZES = [(84, 84), (100, 60), (60, 150), (57, 211), (84, 84)]
BUNDLED = ["pico-qwen", "pico-llava"]
FAMILIES = [*BUNDLED, *tiny.FAMILIES, "qwen3_vl"]
everyone = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[nn.Module, Processing]]:
    """A model of a family with drawn weights, and its processing; each is made once."""
    known: dict[str, tuple[nn.Module, Processing]] = {}

    def make(name: str) -> tuple[nn.Module, Processing]:
        if name in BUNDLED and name not in known:
            model = load_model(name, device="cpu", dtype="float32")
            known[name] = model, load_processing(name)
        elif name not in known:
            folder = tmp_path_factory.mktemp(name)
            folder = deepstack(folder) if name == "qwen3_vl" else tiny.write_family(folder, name)
            processing = load_processing(str(folder))
            torch.manual_seed(0)
            config = load_config(str(folder))
            known[name] = model_class(config)(config).eval(), processing
        return known[name]

    return make


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, paths = tmp_path_factory.mktemp("pictures"), []
    for number, size in enumerate(SIZES):
        image = Image.linear_gradient("L").resize(size).rotate(37 * number).convert("RGB")
        paths.append(folder / f"{number}.png")
        image.save(paths[-1])
    return paths


@everyone
@pytest.mark.parametrize("where", ["memory", "folder"])
def test_losses_and_gradients_are_those_of_pixels(
    name: str, where: str, made: Any, pictures: list[Path], tmp_path: Path
) -> None:
    model, processing = made(name)
    rows = rows_of(processing, [[path] for path in pictures[:4]] + [[], pictures[3:]])
    layout = tried(model, processing, rows[:2])
    expected = learned(model, batch_for(rows, processing, None))
    folder = FeatureFolder(tmp_path, GIB) if where == "folder" else None
    store = FeatureStore(0 if folder else GIB, folder)
    feed = feed_of(model, processing, layout, store)
    with counted(model) as calls, feed.feeding():
        for _ in range(3):
            assert alike(learned(model, batch_for(rows, processing, feed)), expected)
    assert len(calls) == 1 and feed.sight.seen == 1
    with counted(model) as calls:  # and afterwards the model is as it was
        assert alike(learned(model, batch_for(rows, processing, None)), expected)
    assert len(calls) == 1


@everyone
def test_answers_are_those_of_pixels(name: str, made: Any, pictures: list[Path]) -> None:
    model, processing = made(name)
    rows = rows_of(processing, [[path] for path in pictures[:3]])
    feed = feed_of(model, processing, tried(model, processing, rows[:2]), FeatureStore(GIB))
    places = range(len(rows))
    answers = partial(generate_answers, model, processing, max_new_tokens=5)
    expected = answers([(places, batch_for(rows, processing, None))])
    with counted(model) as calls, feed.feeding():
        for _ in range(2):
            assert answers([(places, batch_for(rows, processing, feed))]) == expected
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["pico-qwen", "llava_onevision", "qwen3_vl"])
def test_no_batch_is_taken_for_another(name: str, made: Any, pictures: list[Path]) -> None:
    """Order, number, and which images belong to one sample: all are told apart."""
    model, processing = made(name)
    one, two, three = pictures[:3]
    feed = feed_of(
        model, processing, tried(model, processing, rows_of(processing, [[one]])), FeatureStore(GIB)
    )
    groups = [[[one], [two]], [[two], [one]], [[one, two]], [[one]], [[one], [two], [three]]]
    for _ in range(2):
        for rows in (rows_of(processing, group) for group in groups):
            expected = seen_features(model, batch_for(rows, processing, None))
            with feed.feeding():
                found = seen_features(model, batch_for(rows, processing, feed))
            assert len(found) == len(expected) and all(map(torch.equal, found, expected))
    assert feed.sight.seen == len(groups)


@everyone
def test_alone_features_depend_on_no_batch(name: str, made: Any, pictures: list[Path]) -> None:
    """Cold or warm, first or last, one or many: the same bits, as of a batch of one's own."""
    model, processing = made(name)
    rows = rows_of(processing, [[path] for path in pictures[:4]])
    layout = tried(model, processing, rows[:2])
    assert layout.plans is not None, layout.alone
    feed = feed_of(model, processing, layout, FeatureStore(GIB), alone=True)
    own = [seen_features(model, batch_for([row], processing, None)) for row in rows]
    with counted(model) as calls, feed.feeding():
        for order in ([2], [0, 1], [3, 1, 0, 2], [0, 1, 2, 3]):
            batch = batch_for([rows[place] for place in order], processing, feed)
            found = seen_features(model, batch)
            expected = [
                torch.cat(parts) for parts in zip(*(own[one] for one in order), strict=True)
            ]
            assert len(found) == len(expected) and all(map(torch.equal, found, expected))
    assert len(calls) == len(rows)


@everyone
def test_alone_a_batch_has_what_stands_beside_its_pixels(
    name: str, made: Any, pictures: list[Path]
) -> None:
    model, processing = made(name)
    rows = rows_of(processing, [[path] for path in pictures[:4]])
    feed = feed_of(model, processing, tried(model, processing, rows[:2]), FeatureStore(GIB), True)
    shown, fed = (batch_for(rows, processing, one).inputs for one in (None, feed))
    assert shown.keys() == fed.keys()
    assert all(torch.equal(shown[key], fed[key]) for key in shown if key != feed.encoder.pixels)
    assert fed[feed.encoder.pixels].nbytes == 32


def test_all_levels_of_deepstack_are_kept(made: Any, pictures: list[Path]) -> None:
    model, processing = made("qwen3_vl")
    rows = rows_of(processing, [[path] for path in pictures[:2]])
    layout = tried(model, processing, rows)
    assert layout.read == ("pooler_output", "deepstack_features")
    assert len(seen_features(model, batch_for(rows, processing, None))) == 3


def test_the_trial_leaves_the_model_and_random_numbers_alone(
    made: Any, pictures: list[Path]
) -> None:
    model, processing = made("pico-qwen")
    model.train()
    before, state = dict(vars(encoder_of(model).module)), torch.get_rng_state()
    tried(model, processing, rows_of(processing, [[path] for path in pictures[:2]]))
    assert all(module.training for module in model.modules())
    assert vars(encoder_of(model).module) == before
    assert torch.equal(state, torch.get_rng_state())
    model.eval()


def test_what_features_depend_on_is_watched(made: Any, pictures: list[Path]) -> None:
    for name, parts in {
        "pico-qwen": {"visual"},
        "pico-llava": {"vision_tower", "multi_modal_projector", "image_newline"},
        "llava": {"vision_tower", "multi_modal_projector"},
    }.items():
        model, processing = made(name)
        rows = rows_of(processing, [[path] for path in pictures[:2]])
        assert tried(model, processing, rows).upstream == parts


def drawing(model: nn.Module) -> None:
    """Its encoder drops features at random while it is taught."""
    module = encoder_of(model).module

    def drop(merger: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return nn.functional.dropout(output, 0.5, merger.training)

    module.visual.merger.register_forward_hook(drop)


def drifting(model: nn.Module) -> None:
    """Its encoder says something else at every call."""
    calls: list[int] = []

    def moved(output: Any) -> Any:
        calls.append(1)
        output.pooler_output = [one + len(calls) for one in output.pooler_output]
        return output

    answered(encoder_of(model).module, moved)


def weightless(model: nn.Module) -> None:
    """Its encoder answers from a drawer, whatever is shown to it."""
    first: list[Any] = []
    module = encoder_of(model).module
    ask = module.get_image_features
    shown = {"pixel_values": torch.zeros(72, 1176), "image_grid_thw": torch.tensor([[1, 6, 6]] * 2)}
    with torch.no_grad():
        first.append(ask(**shown))

    @wraps(ask)
    def answer(*_args: Any, **_kwargs: Any) -> Any:
        return first[0]

    module.get_image_features = answer


def without(model: nn.Module) -> None:
    """Its class has no such method."""
    for module in (model, encoder_of(model).module):
        module.get_image_features = None


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (drawing, "at random"),
        (drifting, "does not say the same"),
        (weightless, "computes with no weights"),
        (without, "no get_image_features"),
    ],
)
def test_an_encoder_that_is_no_function_of_its_pixels_is_refused(
    damage: Callable[[nn.Module], None],
    why: str,
    processing: Processing,
    pico_model: Callable[[], nn.Module],
    pictures: list[Path],
) -> None:
    model = pico_model()
    damage(model)
    with pytest.raises(Unfit, match=why):
        tried(model, processing, rows_of(processing, [[pictures[0]], [pictures[4]]]))


def test_an_image_that_changes_under_its_name_is_seen_again(
    made: Any, pictures: list[Path], tmp_path: Path
) -> None:
    model, processing = made("pico-qwen")
    path = tmp_path / "picture.png"
    path.write_bytes(pictures[0].read_bytes())
    rows = rows_of(processing, [[path]])
    feed = feed_of(model, processing, tried(model, processing, rows), FeatureStore(GIB))
    with feed.feeding():
        before = seen_features(model, batch_for(rows, processing, feed))
        path.write_bytes(pictures[4].read_bytes())
        after = seen_features(model, batch_for(rows, processing, feed))
    assert not torch.equal(before[0], after[0])
    assert torch.equal(after[0], seen_features(model, batch_for(rows, processing, None))[0])


def test_without_room_pixels_are_shown(made: Any, pictures: list[Path]) -> None:
    model, processing = made("pico-qwen")
    rows = rows_of(processing, [[path] for path in pictures[:2]])
    feed = feed_of(model, processing, tried(model, processing, rows), FeatureStore(limit=10))
    expected = learned(model, batch_for(rows, processing, None))
    with feed.feeding():
        for _ in range(2):
            batch = batch_for(rows, processing, feed)
            assert alike(learned(model, batch), expected)
    assert batch.inputs["pixel_values"].dtype == torch.float32
    assert not feed.takes([row.example.images for row in rows])
