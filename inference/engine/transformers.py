"""The engine on transformers: rows of one model on torch, in the dtype of its weights.

Runs in the inference process.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch

from inference.engine.base import BASE_MODEL
from inference.engine.batch import PREFILL_TOKENS, PREFILL_TOKENS_ON_CPU, Prefill, RollingBatch, may_join
from inference.engine.choice import TextTools, Ticket
from inference.engine.grammar import Grammars
from inference.engine.loading import LoadedModel
from inference.engine.rolling import RollingEngine
from inference.processors import ProcessorFactory


class TransformersEngine(RollingEngine[Prefill]):
    """Serves one loaded model, with adapters beside it.

    `factories` make the processors of the model's profile, `adapter_factories` those of the adapters beside it.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        factories: Sequence[ProcessorFactory],
        *,
        max_batch: int,
        max_queue: int,
        prefix_cache_bytes: int = 0,
        adapter_factories: Mapping[str, Sequence[ProcessorFactory]] | None = None,
    ) -> None:
        beside = {name: (adapter_factories or {}).get(name, ()) for name in loaded.adapters.names}
        super().__init__(
            TransformersDecoder(loaded),
            TextTools.of(loaded, {BASE_MODEL: factories, **beside}),
            Grammars(loaded.tokenizer, loaded.vocabulary_size, loaded.end_token_ids),
            max_batch=max_batch,
            max_queue=max_queue,
            prefix_cache_bytes=prefix_cache_bytes,
        )


class TransformersDecoder:
    """A model of the library on its device; `Decoder` says what its methods promise."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self.max_model_length = loaded.max_model_length
        self.rows = RollingBatch(loaded.model, loaded.adapters)
        self._side_by_side = PREFILL_TOKENS_ON_CPU if loaded.model.device.type == "cpu" else PREFILL_TOKENS

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Threads are counted by thread."""
        if self._loaded.cpu_threads:
            torch.set_num_threads(self._loaded.cpu_threads)
        yield

    def admits(self, group: Sequence[Ticket], ticket: Ticket) -> bool:
        """See `Decoder.admits`."""
        return not group or may_join(group, ticket, self._side_by_side)

    def begin(self, tickets: Sequence[Ticket]) -> Prefill:
        """See `Decoder.begin`."""
        return Prefill(self._loaded.model, tickets, self._loaded.adapters)
