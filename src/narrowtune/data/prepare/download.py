"""Files fetched over HTTP: retried, resumed where they broke off, verified by their hash."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowtune.errors import InputError

if TYPE_CHECKING:
    from requests import Response, Session

ATTEMPTS = 4
FIRST_WAIT_SECONDS = 1.0
TIMEOUT_SECONDS = (10, 60)
# What is lost when a connection breaks: at most one of these.
CHUNK_BYTES = 1 << 16
# Busy or broken for now; everything else that a server refuses stays refused.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
INSTALL = "pip install 'narrowtune[prepare]'"


class Unreachable(InputError):
    """No server answered: there is no network, or not to this address."""


class Refused(InputError):
    """The server answered, but not with the file: it is gone, truncated, or another one."""


@dataclass(frozen=True)
class Hash:
    """What a file must hash to; `algorithm` is a name that hashlib knows."""

    algorithm: str
    value: str

    def fits(self, path: Path) -> bool:
        """Whether the file is the one that was published."""
        return digest(path, self.algorithm) == self.value.lower()


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The file's hash in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _session() -> Session:
    """A session with a user agent that says who asks, as image hosts want to know.

    Raises:
        InputError: If the extra that downloads is not installed.
    """
    try:
        from requests import Session
    except ImportError as error:
        raise InputError(f"downloading needs the package requests: {INSTALL}") from error
    session = Session()
    session.headers["User-Agent"] = "narrowtune (data preparation for research)"
    return session


def download(
    url: str,
    to: Path,
    *,
    wanted: Hash | None = None,
) -> Path:
    """Fetch one file; what an earlier call got of it is kept and only the rest is asked for.

    Args:
        url: Where it is.
        to: Where it goes; `<to>.part` holds it until it is whole.
        wanted: What it must hash to. A file already at `to` is fetched anew only if it does not.

    Raises:
        Unreachable: Nobody answers, after several attempts.
        Refused: It is not there, stays truncated, or is not the file that was published.
    """
    if to.is_file() and (wanted is None or wanted.fits(to)):
        return to
    part = to.with_name(to.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with _session() as session:
        for attempt in range(ATTEMPTS):
            try:
                _continue(session, url, part)
                break
            except _Passing as error:
                if attempt == ATTEMPTS - 1:
                    raise error.final from error
                time.sleep(error.wait or FIRST_WAIT_SECONDS * 2**attempt)
    if wanted is not None and not wanted.fits(part):
        found = digest(part, wanted.algorithm)
        part.unlink()
        raise Refused(
            f"{url} is another file than was published: its {wanted.algorithm} is {found}, wanted "
            f"{wanted.value}"
        )
    os.replace(part, to)
    return to


class _Passing(Exception):
    """Worth another attempt; `final` is what to raise when there is none left."""

    def __init__(self, final: InputError, wait: float | None = None) -> None:
        super().__init__(str(final))
        self.final, self.wait = final, wait


def _continue(session: Session, url: str, part: Path) -> None:
    """Ask for what `part` still lacks and append it."""
    from requests import exceptions

    have = part.stat().st_size if part.exists() else 0
    # Without identity a server may compress, and then a byte range means something else.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
            if response.status_code == 416 and _is_whole(response, have):
                return
            _check_status(response, url, part)
            whole = response.status_code != 206
            with part.open("wb" if whole else "ab") as file:
                for piece in response.iter_content(CHUNK_BYTES):
                    file.write(piece)
    except exceptions.ChunkedEncodingError as error:
        raise _Passing(Refused(f"{url} broke off before its end ({error})")) from error
    except (exceptions.ConnectionError, exceptions.Timeout) as error:
        raise _Passing(Unreachable(f"{url} cannot be reached ({_cause(error)})")) from error
    except (exceptions.RequestException, ValueError) as error:  # ValueError: no address at all
        raise Refused(f"{url} cannot be fetched: {error}") from error


def _is_whole(response: Response, have: int) -> bool:
    """Whether "range not satisfiable" means that nothing is left to send."""
    return response.headers.get("Content-Range", "") == f"bytes */{have}"


def _check_status(response: Response, url: str, part: Path) -> None:
    code = response.status_code
    if code == 416:  # what is there is longer than the file: it is another one
        part.unlink()
        raise _Passing(Refused(f"{url} has changed since its download began"))
    if code in _PASSING:
        after = response.headers.get("Retry-After", "")
        wait = min(float(after), 60.0) if after.isdigit() else None
        raise _Passing(Refused(f"{url} answers {code} {response.reason}"), wait)
    if code not in (200, 206):
        raise Refused(f"{url} answers {code} {response.reason}")


def _cause(error: BaseException) -> str:
    """The innermost reason, without the connection objects named before it."""
    reason: Any = error
    while (inner := getattr(reason, "reason", None) or next(iter(reason.args), None)) is not None:
        if not isinstance(inner, BaseException):
            break
        reason = inner
    return str(reason).rpartition("): ")[2]
