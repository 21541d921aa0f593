"""Fetch a checkpoint from the Hugging Face hub into its own cache."""

import re
from pathlib import Path

from quantvggt.checkpoint.config import CONFIG_NAME, WEIGHTS_NAME
from quantvggt.checkpoint.layouts import INDEX_SUFFIX, is_index, shard_names
from quantvggt.checkpoint.weights import SAFETENSORS_SUFFIX, TORCH_SUFFIXES
from quantvggt.core.errors import InputError

WEIGHTS_NAMES = (
    WEIGHTS_NAME, "model.pt", f"{WEIGHTS_NAME}{INDEX_SUFFIX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX_SUFFIX}"
)  # fmt: skip
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repo_id(name: str) -> bool:
    """Whether `name` reads as "organisation/repository"."""
    return _REPO_ID.fullmatch(name) is not None and Path(name).suffix not in (
        SAFETENSORS_SUFFIX,
        *TORCH_SUFFIXES,
        ".json",
    )


def fetch(repo_id: str) -> Path:
    """Download (or find in the cache) a repository's weights and its config.json if it has one.

    Returns the path of the weights, the first of `WEIGHTS_NAMES`; config.json and an index's shards lie beside them.
    Raises InputError if there is no such repository or file, no access, or no network.
    """
    _download(repo_id, CONFIG_NAME)
    for name in WEIGHTS_NAMES:
        path = _download(repo_id, name)
        if path is not None:
            for shard in shard_names(path) if is_index(path) else ():
                if _download(repo_id, shard) is None:
                    raise InputError(f"hub repository {repo_id!r} lacks {shard}, which its {name} names; name another")
            return path
    raise InputError(f"hub repository {repo_id!r} holds neither {' nor '.join(WEIGHTS_NAMES)}; name another")


def _download(repo_id: str, filename: str) -> Path | None:
    """The local path, or None if the repository has no such file."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(huggingface_hub.hf_hub_download(repo_id, filename))
    except errors.LocalEntryNotFoundError as error:  # before its parent, EntryNotFoundError
        raise _unreachable(repo_id) from error
    except errors.EntryNotFoundError:
        return None
    except errors.GatedRepoError as error:
        raise InputError(
            f"hub repository {repo_id!r} is gated: accept its terms on huggingface.co, then `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise InputError(
            f"{repo_id!r} is neither a local path nor a hub repository that you may read: check the "
            "spelling, or run `hf auth login` if it is private"
        ) from error
    except Exception as error:  # the hub's network layer changed its exceptions (requests, then httpx)
        raise _unreachable(repo_id) from error


def _unreachable(repo_id: str) -> InputError:
    return InputError(
        f"{repo_id!r} is no local path, the Hugging Face hub cannot be reached and its files are not in the "
        "cache: connect to the network, or download the checkpoint and name the file"
    )
