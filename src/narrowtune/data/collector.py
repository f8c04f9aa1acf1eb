"""The collector of cycles, out of the way while many objects are made that have none."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for cycles while the context lasts.

    Reading 100,000 rows makes millions of objects that all stay, and the collector would look
    through them again and again: up to half of the time. What holds no cycle is freed as ever.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
