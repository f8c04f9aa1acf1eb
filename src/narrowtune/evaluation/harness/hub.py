"""Whether the hub can be reached, asked once, so that an offline machine hears so at once.

Left to themselves, the hub's libraries try again for half a minute per file.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

SECONDS = 3.0


@contextmanager
def only_what_is_reachable() -> Iterator[None]:
    """Let data sets be fetched from the hub, or, where it cannot be reached, from the cache."""
    import datasets
    import huggingface_hub.constants as hub

    flags: tuple[tuple[Any, str], ...] = (
        (hub, "HF_HUB_OFFLINE"),
        (datasets.config, "HF_HUB_OFFLINE"),
        (datasets.config, "HF_DATASETS_OFFLINE"),
    )
    before = [(module, name, getattr(module, name)) for module, name in flags]
    offline = not reachable(hub.ENDPOINT)
    for module, name, flag in before:
        setattr(module, name, flag or offline)
    try:
        yield
    finally:
        for module, name, flag in before:
            setattr(module, name, flag)


@lru_cache
def reachable(address: str) -> bool:
    """Whether a server answers there, proxies of the environment used; tried once, briefly."""
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # it refused, so it is there
    except (OSError, ValueError):
        return False
