"""A small world of drawn pictures with questions, for models that learn within minutes."""

from narrowtune.pico.world import HELD_OUT, METRICS, TARGETS, Item, draw, picture, write

__all__ = ["HELD_OUT", "METRICS", "TARGETS", "Item", "draw", "picture", "write"]
