"""How many of a model's tensors transformers has read, told to whoever wants to know. Runs in the inference process.

transformers counts them for its own progress bar, which would only fill the log; its hook for that bar is ours
meanwhile.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging

from inference.progress import Report


@contextmanager
def counted(report: Report) -> Iterator[None]:
    """Within it each list of tensors that transformers works through is told as an amount of the present stage."""

    def bar(_factory: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> logging.EmptyTqdm:
        items, *rest = arguments or (options.pop("iterable", None),)
        if isinstance(items, Collection):
            return logging.EmptyTqdm(_told(items, report), *rest, **options)
        return logging.EmptyTqdm(*arguments, **options)

    before = logging.set_tqdm_hook(bar)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _told(items: Collection[Any], report: Report) -> Iterator[Any]:
    report.amount(0, len(items), "tensors")
    for done, item in enumerate(items, start=1):
        yield item
        report.amount(done, len(items), "tensors")
