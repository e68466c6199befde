"""Downloads from the Hugging Face hub, only of files that loading reads, and uploads to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TypeVar

from hart.checkpoint.folders import CheckpointError
from hart.checkpoint.released_weights import WEIGHT_FILES
from hart.devices import is_out_of_memory
from hart.errors import HartError
from hart.files import user_path
from hart.hub import hub_address, is_hub_name, unreachable
from hart.strict import reason

T = TypeVar("T")

# Folder of a repository -> patterns of its weights, in order of preference: this project's layout and VAR's; HART's
# parts.
FOLDERS = {".": ("*.safetensors", "v*.pth"), "llm": WEIGHT_FILES, "tokenizer": WEIGHT_FILES}
NOT_DOWNLOADED = "{} {!r} is not a folder and cannot be downloaded from the Hugging Face hub"


def folder_or_id(source: str, role: str) -> str:
    """Return what transformers is given to load: an existing folder, or a possible hub id (old ones are only a name).

    role: what it is for, in errors. Raises `CheckpointError` for anything else, without loading.
    """
    folder = user_path(source)
    if folder.is_dir():
        return str(folder)
    if is_hub_name(source):
        return source
    raise CheckpointError(f"{role} {source!r}: there is no such folder, and a hub id is OWNER/NAME")


def _remedy(source: str, instead: str = "") -> str:
    elsewhere = f"fetch it elsewhere from https://huggingface.co/{source}"
    return f"check the name and the connection, or {elsewhere} and {instead or 'give the folder with its files'}"


def from_transformers(load: Callable[[str], T], what: str, source: str, role: str, instead: str = "") -> T:
    """Return what `load` makes, by transformers, of a folder or hub id; also of an earlier download of a hub model if
    the hub cannot be reached.

    what: what it should be. instead: what to do with its files if they cannot be downloaded; by default, give their
    folder. Raises `HartError`.
    """
    place = folder_or_id(source, role)
    from_hub = not user_path(source).is_dir()
    if from_hub and (why := unreachable()) is not None:
        if (copy := _copy(place)) is None:
            failed = f"{role} {source!r}: is no folder, and the Hugging Face hub cannot be reached ({why})"
            raise CheckpointError(f"{failed}: {_remedy(source, instead)}")
        place = str(copy)
    try:
        return load(place)
    except Exception as error:  # transformers raises many kinds
        if is_out_of_memory(error):
            raise
        of_folder = "give a hub id or a folder with its configuration, weights and tokenizer"
        remedy = _remedy(source, instead) if from_hub else of_folder
        said = f"{role} {source!r}: transformers cannot load it as {what} ({reason(error)}): {remedy}"
        raise HartError(said) from None


def download(repository: str) -> Path:
    """Return the folder of a hub model; if the hub cannot be reached, the copy of an earlier download.

    Raises `CheckpointError` if there is neither.
    """
    try:
        files = _files(repository)
    except CheckpointError:
        if (copy := _copy(repository)) is not None:
            return copy
        raise
    from huggingface_hub import snapshot_download

    needed = needed_files(repository, files)
    with _hub(NOT_DOWNLOADED.format("model", repository), _remedy(repository)):
        return Path(snapshot_download(repository, allow_patterns=needed))


def require_repository(repository: str, role: str = "model") -> None:
    """Raise `CheckpointError` for a hub model with neither an earlier download nor a list of files. role: what it is
    for, in errors."""
    if _copy(repository) is None:
        _files(repository, role)


def _files(repository: str, role: str = "model") -> list[str]:
    with _hub(NOT_DOWNLOADED.format(role, repository), _remedy(repository)):
        from huggingface_hub import list_repo_files

        return list(list_repo_files(repository))


def _copy(repository: str) -> Path | None:
    """Return the folder of an earlier download, if there is one."""
    hub_address()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (HFValidationError, OSError):
        return None


def upload(folder: Path, repository: str, *, private: bool | None, token: str | bool | None, message: str) -> str:
    """Upload a model's folder to a hub repository, created if it does not exist; return the URL of the commit.

    token: None uses the one that `hf auth login` stored. Raises `CheckpointError` if the upload fails.
    """
    with _hub(f"{repository!r} cannot be written to the Hugging Face hub", "check name, connection and token"):
        from huggingface_hub import create_repo, upload_folder

        name = create_repo(repository, private=private, token=token, exist_ok=True).repo_id
        return str(upload_folder(repo_id=name, folder_path=folder, token=token, commit_message=message).commit_url)


@contextmanager
def _hub(failed: str, remedy: str) -> Iterator[None]:
    """If the hub cannot be reached, or the block fails, raise a `CheckpointError` with this beginning and end."""
    if (why := unreachable()) is not None:
        raise CheckpointError(f"{failed}, which cannot be reached ({why}): {remedy}")
    try:
        yield
    except Exception as error:  # the hub's own errors, and those of the HTTP library below it
        raise CheckpointError(f"{failed} ({reason(error)}): {remedy}") from None


def needed_files(repository: str, files: Sequence[str]) -> list[str]:
    """Return the `files` of a repository that loading reads: JSON, packed or not, each part's preferred weights, the
    text encoder's folder.

    Raises `CheckpointError` for a repository with several VAR models.
    """
    needed = []
    for folder, patterns in FOLDERS.items():
        here = [file for file in files if str(PurePosixPath(file).parent) == folder]
        needed += [file for file in here if file.endswith((".json", ".json.gz"))]
        kinds = ([file for file in here if fnmatch(PurePosixPath(file).name, pattern)] for pattern in patterns)
        needed += next(filter(None, kinds), [])
    needed += [file for file in files if str(PurePosixPath(file).parent) == "text_encoder"]
    several = [file for file in needed if fnmatch(file, "var*.pth")]
    if len(several) > 1:
        raise CheckpointError(
            f"{repository!r} holds {len(several)} VAR models ({', '.join(several)}): download one of them and the "
            "vae*.pth to a folder, and give that"
        )
    return needed
