"""The key/value cache of a batch whose rows come and go: one window of columns that all rows share.

Runs in the inference process. The newest token of every row stands in the last column, so rows are padded on the left
and a step appends one column for all. The buffers are larger than the window: a step writes in place (the library's
DynamicCache copies everything at each token), and a row that joins or leaves costs one row's copy. Everything left of
a row's first token is zero, so that what an earlier row left there can never poison it through the attention mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from inference.engine.prefixes import Layers

HEADROOM_COLUMNS = 128


@dataclass
class Window:
    """Which part of the buffers is in use: rows [0, rows), columns [start, end)."""

    rows: int
    start: int = 0
    end: int = 0
    capacity_rows: int = 1
    capacity_columns: int = HEADROOM_COLUMNS

    @property
    def width(self) -> int:
        return self.end - self.start


class WindowLayer(CacheLayerMixin):  # type: ignore[misc]  # the library is untyped here
    """One layer's keys and values, each [capacity rows, heads, capacity columns, head size]."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocates the buffers; the shapes and the device are known at the first update only."""
        self.keys = self._buffer(key_states)
        self.values = self._buffer(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the columns behind the window's end and returns views of all. The window itself grows later, by
        `WindowCache.advance`: a forward pass that fails half-way leaves the cache as it was."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window, end = self.window, self.window.end + key_states.shape[-2]
        views = []
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            assert buffer is not None  # noqa: S101 - for the type checker
            buffer[: window.rows, :, window.end : end] = states
            views.append(buffer[: window.rows, :, window.start : end])
        return views[0], views[1]

    def get_seq_length(self) -> int:
        """Columns in use, padding included."""
        return self.window.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that the next update will return."""
        return self.window.width + query_length, 0

    def get_max_length(self) -> int:
        """-1: the buffers grow."""
        return -1

    def moved(self, buffer: torch.Tensor, new: Window) -> torch.Tensor:
        """A copy of what the window holds, in a buffer of `new`'s capacity, ending in the column where `new` ends."""
        old = self.window
        larger = buffer.new_zeros(new.capacity_rows, buffer.shape[1], new.capacity_columns, buffer.shape[3])
        larger[: old.rows, :, new.end - old.width : new.end] = buffer[: old.rows, :, old.start : old.end]
        return larger

    def _buffer(self, states: torch.Tensor) -> torch.Tensor:
        window = self.window
        return states.new_zeros(window.capacity_rows, states.shape[1], window.capacity_columns, states.shape[3])


class WindowCache(Cache):  # type: ignore[misc]  # the library is untyped here
    """The layers of one batch, made as the model first writes to them."""

    def __init__(self, rows: int, capacity_columns: int = HEADROOM_COLUMNS) -> None:
        self.window = Window(rows=rows, capacity_rows=max(rows, 1), capacity_columns=capacity_columns)
        super().__init__(layer_class_to_replicate=partial(WindowLayer, self.window))

    @property
    def token_bytes(self) -> int:
        """The size of one token's keys and values in all layers."""
        buffers = [buffer for layer in self.layers if layer.is_initialized for buffer in (layer.keys, layer.values)]
        return sum(buffer.shape[1] * buffer.shape[3] * buffer.element_size() for buffer in buffers)

    def reserve(self, columns: int) -> None:
        """Makes room for `columns` more behind the window. May allocate: raises torch's out-of-memory error."""
        if self.window.end + columns > self.window.capacity_columns:
            self._resize(rows=self.window.rows, left=self.window.width, right=columns)

    def advance(self, columns: int) -> None:
        """Takes the columns that a forward pass has written into the window."""
        self.window.end += columns

    def begin(self, rows: Sequence[Layers], columns: int) -> None:
        """Fills an empty cache from the left: the first `columns` columns of what each row is known to begin with."""
        filled = []
        for number, (keys, values) in enumerate(rows[0]):
            layer = WindowLayer(self.window)
            layer.lazy_initialization(keys[None], values[None])
            for row, layers in enumerate(rows):
                for buffer, known in zip((layer.keys, layer.values), layers[number], strict=True):
                    assert buffer is not None  # noqa: S101 - for the type checker
                    buffer[row, :, :columns] = known[:, :columns]
            filled.append(layer)
        self.layers.extend(filled)
        self.window.end = columns

    def copied(self, row: int, first: int, length: int) -> Layers:
        """Copies of `length` columns of a row, from column `first` of the buffers on."""
        columns = slice(first, first + length)
        return [(layer.keys[row, :, columns].clone(), layer.values[row, :, columns].clone()) for layer in self.layers]

    def append(self, other: "WindowCache", row: int, length: int) -> None:
        """Adds a row: the first `length` columns of row `row` of a cache that was filled from the left."""
        window = self.window
        if window.rows + 1 > window.capacity_rows or length > window.end:
            self._resize(rows=window.rows + 1, left=max(window.width, length), right=1)
        new = window.rows
        while len(self.layers) < len(other.layers):
            self.layers.append(WindowLayer(window))
        first = window.end - length
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            if not theirs.is_initialized:
                continue
            if not mine.is_initialized:
                mine.lazy_initialization(theirs.keys, theirs.values)
            for target, source in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                target[new, :, :first] = 0
                target[new, :, first : window.end] = source[row, :, :length]
        window.rows += 1
        window.start = min(window.start, first)

    def remove(self, row: int) -> None:
        """Takes a row out: the last row moves to its place. The caller does the same with whatever it keeps by row."""
        last = self.window.rows - 1
        if row != last:
            for layer in self.layers:
                if layer.is_initialized:
                    layer.keys[row, :, : self.window.end] = layer.keys[last, :, : self.window.end]
                    layer.values[row, :, : self.window.end] = layer.values[last, :, : self.window.end]
        self.window.rows = last

    def trim(self, longest: int) -> None:
        """Narrows the window to the longest row that is left."""
        self.window.start = self.window.end - longest

    def _resize(self, rows: int, left: int, right: int) -> None:
        """New buffers with room for `rows` rows, `left` columns up to the window's end and `right` behind it."""
        window = self.window
        capacity_rows = window.capacity_rows
        while capacity_rows < rows:
            capacity_rows *= 2
        headroom = max(HEADROOM_COLUMNS, left // 4)
        new = Window(rows, left - window.width, left, capacity_rows, left + right + headroom)
        moved = []  # all are made before any is taken: running out of memory half-way changes nothing
        for layer in self.layers:
            if layer.is_initialized:
                moved.append((layer, layer.moved(layer.keys, new), layer.moved(layer.values, new)))
        for layer, keys, values in moved:
            layer.keys, layer.values = keys, values
        window.start, window.end = new.start, new.end
        window.capacity_rows, window.capacity_columns = new.capacity_rows, new.capacity_columns
