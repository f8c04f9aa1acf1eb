"""Devices by name, and this one: what `plan` predicts for."""

from __future__ import annotations

import pytest
import torch

from narrowtune.engine.devices import Device, named_device, this_machine
from narrowtune.errors import InputError

NAMES = ("h100-80g", "h200-141g", "a100-40g", "a100-80g", "l40s-48g", "l4-24g", "t4-16g")


@pytest.mark.parametrize("name", NAMES)
def test_a_named_device_holds_less_than_its_name_says(name: str) -> None:
    device = named_device(name)
    said = int(name.rpartition("-")[2].removesuffix("g")) * 2**30
    assert 0.8 * said < device.memory < said
    assert device.kind == "cuda" and not device.measured
    assert device.flops[torch.bfloat16] >= device.flops[torch.float32] > 1e12


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("h100", "'h100-80g'"),
        ("rtx4090", "'rtx4090-24g'"),
        ("L4-24G", "'l4-24g'"),
        ("abacus", "known: a100-40g"),
    ],
)
def test_an_unknown_name_tells_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"no device {wrong!r}.*{nearest}"):
        named_device(wrong)


def test_an_operation_is_bound_by_its_products_or_its_memory() -> None:
    device = Device("made up", "cpu", 2**30, {torch.float32: 100.0}, 10.0, 1.0, measured=True)
    assert device.seconds([(500, 10), (100, 70)], torch.float32) == (1 + 5) + (1 + 7)
    assert device.seconds([], torch.float32) == 0


def test_this_machine_is_measured() -> None:
    device = this_machine("cpu", torch.float32)
    assert device.measured and device.kind == "cpu"
    assert device.memory > 2**28
    assert min(device.flops[torch.float32], device.bandwidth, device.launch) > 0
