"""An export on its way to the Hugging Face hub: one commit, of what was written and of nothing else."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cyclealign.cycle.model_card import TAG
from cyclealign.files.printable import one_line, scrubbed
from cyclealign.types import UserError

# What says of a repository which model it holds. Left there beside another one's, it would be loaded in its stead.
LOADED = ("*.safetensors", "*.safetensors.index.json", "*config.json", "adapter/*")
WHAT_TO_DO = {
    401: "the hub does not know this token; log in with `hf auth login`, or set HF_TOKEN to one that is valid",
    403: "this token may not write there; take one that may (its settings on the hub), or another OWNER",
    404: "the hub has no such repository or owner, or hides it from this token; check OWNER/NAME",
    409: "somebody else writes to it right now; start the command again",
    429: "the hub has had too many requests; start the command again later",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepo:
    """A repository of models. ``private``: nobody but its owner may see it; one that is public is refused then."""

    id: str
    private: bool = False


def check_repo(repo: HubRepo) -> None:
    """What can be known before anything is written. Nothing is sent.

    Raises:
        UserError: this is no id, the hub is switched off here, or nobody has logged in.
    """
    from huggingface_hub import get_token, is_offline_mode
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, by its documentation

    try:
        validate_repo_id(repo.id)
    except HFValidationError as error:
        raise UserError(f"--push {repo.id}: is no name of a repository: {one_line(str(error))}") from error
    if "/" not in repo.id:
        raise UserError(f"--push {repo.id}: expected OWNER/NAME, where OWNER is a user or an organization of the hub")
    if is_offline_mode():
        raise UserError(f"--push {repo.id}: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set; unset it to publish")
    with _hub(repo):
        token = get_token()
    if token is None:
        raise UserError(f"--push {repo.id}: nobody is logged in to the hub; run `hf auth login`, or set HF_TOKEN")


def push(repo: HubRepo, models: Mapping[str, Path]) -> str:
    """All files of these directories in one commit, by the folder that each gets ("": the root); the repository is
    made where there is none. Returns its address.

    What an earlier push left there, and what would be loaded beside this, the same commit removes.

    Raises:
        UserError: the hub refuses, cannot be reached, or has something there that no export wrote.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    files = {
        PurePosixPath(folder, path.relative_to(directory)).as_posix(): path
        for folder, directory in models.items()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    with _hub(repo):
        api = HfApi(token=True)
        address = str(api.create_repo(repo.id, private=repo.private or None, exist_ok=True))
        found = api.model_info(repo.id)
    there = {file.rfilename for file in found.siblings or ()} - {".gitattributes"}
    if there and TAG not in (found.tags or ()):
        raise UserError(f"--push {repo.id}: holds {min(there)}, which no export wrote; choose another NAME")
    if repo.private and not found.private:
        raise UserError(f"--push {repo.id}: is public; make it private on the hub, or leave --private out")
    old = sorted(n for n in there - files.keys() if any(fnmatch.fnmatchcase(n, pattern) for pattern in LOADED))
    with _hub(repo):
        added = [CommitOperationAdd(name, path) for name, path in files.items()]
        removed = [CommitOperationDelete(name) for name in old]
        api.create_commit(repo.id, [*added, *removed], commit_message=f"Export of {TAG}")
    return address


@contextmanager
def _hub(repo: HubRepo) -> Iterator[None]:
    """Whatever goes wrong at the hub as one line, without the token."""
    try:
        yield
    except Exception as error:  # the hub's, its HTTP library's or its uploader's, which changed with every version
        raise UserError(f"--push {repo.id}: {_said(error)}") from error


def _said(error: BaseException) -> str:
    """What to do about it, and the hub's own words."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HfHubHTTPError

    token: list[str] = []
    with suppress(Exception):  # it may be what went wrong
        token += filter(None, [get_token()])
    while error.__cause__ is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__  # an upload's own is wrapped
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        words = one_line(scrubbed(error.server_message or "", token))
        what = WHAT_TO_DO.get(status, "start the command again later, or see what the hub says")
        return f"{what} (HTTP {status}{f': {words}' if words else ''})"
    words = one_line(scrubbed(str(error), token))
    return (
        f"no usable answer of {constants.ENDPOINT} ({type(error).__name__}: {words}); check the connection, and"
        " HF_ENDPOINT where you set it"
    )
