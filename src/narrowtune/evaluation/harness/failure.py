"""What a harness's failure to build a task means to a user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from narrowtune.errors import InputError
from narrowtune.evaluation.harness.asked import Asked
from narrowtune.evaluation.harness.hub import only_what_is_reachable


@contextmanager
def built(asked: Asked) -> Iterator[None]:
    """Build a task inside; whatever its files or its data do wrong is one sentence.

    Task files hold code and templates of their own, so anything can be raised.

    Raises:
        InputError: It failed, and why.
    """
    with only_what_is_reachable():
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{asked.source}: {why(error)}") from error


def why(error: Exception) -> str:
    """The reason as one clause: a package or data that is missing, or what was raised."""
    chain = list(_chain(error))
    for one in chain:
        if isinstance(one, ModuleNotFoundError) and one.name:
            package = one.name.partition(".")[0]
            return f"the task needs the package {package}, which is not installed"
        if isinstance(one, ConnectionError) or _of_the_hub(one):
            return (
                "its data is not in this machine's cache and cannot be fetched "
                f"({_line(one)}); run the task once with a connection to the hub, or give a task "
                "over local files (dataset_path: json) with include_path"
            )
    return f"the task cannot be built: {type(chain[-1]).__name__}: {_line(chain[-1])}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it, the last cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_the_hub(error: BaseException) -> bool:
    """Whether a library of the hub or of its connections raised it."""
    return type(error).__module__.partition(".")[0] in ("huggingface_hub", "httpx", "requests")


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
