"""A matrix in memory whose row blocks take a while to read, for tests that break something during a pass."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import DTypeLike, NDArray


@dataclass(frozen=True)
class SlowMatrix:
    """A matrix of ones, 4 rows a block.

    Attributes:
        block_count: Number of row blocks.
        seconds: Time to read one.
    """

    block_count: int
    seconds: float
    cols: int = 3
    uri: str = "a slow matrix"

    @property
    def rows(self) -> int:
        return 4 * self.block_count

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int16)

    def block(self, index: int) -> slice:
        return slice(4 * index, 4 * index + 4)

    def read_block(self, index: int, *, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        assert 0 <= index < self.block_count
        time.sleep(self.seconds)
        return np.ones((4, self.cols), dtype=dtype)

    def blocks(self, indices: Iterable[int], *, reads: bool = True) -> Iterator[tuple[slice, NDArray[Any]]]:
        assert reads
        for index in indices:
            yield self.block(index), self.read_block(index, dtype=self.dtype)
