"""Downloads from the Hugging Face hub, only of files that loading reads, and uploads to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from hart.checkpoint.folders import CheckpointError
from hart.checkpoint.released_weights import WEIGHT_FILES
from hart.files import user_path
from hart.hub import hub_address, is_hub_name, unreachable
from hart.strict import reason

# Folder of a repository -> patterns of its weights, preferred first: this project's layout and VAR's; HART's two parts.
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


def remedy(source: str, instead: str = "") -> str:
    """Return what to do if a hub model cannot be downloaded. instead: what to do with its files once they are there; by
    default, give their folder."""
    elsewhere = f"fetch it elsewhere from https://huggingface.co/{source}"
    return f"check the name and the connection, or {elsewhere} and {instead or 'give the folder with its files'}"


def download(repository: str) -> Path:
    """Return the folder of a hub model; if the hub cannot be reached, the copy of an earlier download. Raises
    `CheckpointError` if there is neither."""
    try:
        files = _files(repository)
    except CheckpointError:
        if (copy := downloaded(repository)) is not None:
            return copy
        raise
    from huggingface_hub import snapshot_download

    needed = needed_files(repository, files)
    with _hub(NOT_DOWNLOADED.format("model", repository), remedy(repository)):
        return Path(snapshot_download(repository, allow_patterns=needed))


def require_repository(repository: str, role: str = "model") -> None:
    """Raise `CheckpointError` for a hub model with neither an earlier download nor a list of files. role: what it is
    for, in errors."""
    if downloaded(repository) is None:
        _files(repository, role)


def _files(repository: str, role: str = "model") -> list[str]:
    with _hub(NOT_DOWNLOADED.format(role, repository), remedy(repository)):
        from huggingface_hub import list_repo_files

        return list(list_repo_files(repository))


def downloaded(repository: str) -> Path | None:
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
