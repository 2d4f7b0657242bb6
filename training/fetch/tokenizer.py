"""Makes sure that a model folder has a `tokenizer.json`. Runs in the `fetch` job.

Everything here reads that one form: the token statistics, training, serving. Older repositories have only the parts it
is made of, and transformers makes it from them.
"""

from pathlib import Path

from training.fetch.inspect import ModelFaultError


def settle_tokenizer(folder: Path) -> None:
    """Writes `tokenizer.json` where there is none. Raises ModelFaultError `no_tokenizer` when it can't be made."""
    if (folder / "tokenizer.json").is_file():
        return
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False).save_pretrained(folder)
    except (OSError, ValueError, ImportError, KeyError, AttributeError, TypeError) as error:
        raise _no_tokenizer(str(error).strip().splitlines()[0] if str(error).strip() else repr(error)) from error
    if not (folder / "tokenizer.json").is_file():
        raise _no_tokenizer("its tokenizer is not one of the fast ones")


def _no_tokenizer(reason: str) -> ModelFaultError:
    return ModelFaultError(
        "no_tokenizer",
        f"The model has no tokenizer.json, and none could be made: {reason}",
        "Take a repository or export that has tokenizer.json.",
    )
