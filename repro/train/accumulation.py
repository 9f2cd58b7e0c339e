"""Gradient accumulation over micro-batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from repro.cost import memory
from repro.train.distributed import Ranks, partition


class MicroBatches:
    """Divides a rank's share of a batch, and divides it further when memory runs out.

    All ranks have the same number of micro-batches, since each micro-batch synchronises BatchNorms.
    A micro-batch has at most `limit` images (None: the whole share), in whole groups of `multiple`;
    one group more where the shares of the ranks differ. `halvings`: how often earlier attempts ran
    out of memory, of which the maximum over ranks counts.
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        batch_size: int,
        ranks: Ranks,
        limit: int | None,
        multiple: int = 1,
        halvings: int = 0,
    ) -> None:
        self.nets, self.ranks, self.multiple = nets, ranks, multiple
        shares: list[int] = [s.stop - s.start for s in partition(batch_size, ranks.count, multiple)]
        self.share, self.largest = shares[ranks.rank], max(shares)
        self.max_count = max(1, min(shares) // multiple)  # so that none is empty
        (limit,) = ranks.min((limit or self.largest) >> halvings)
        each = max(1, limit // multiple) * multiple
        self.count: int = min(-(-self.largest // each), self.max_count)

    @property
    def size(self) -> int:
        """Images of the largest micro-batch."""
        groups = -(-self.largest // self.multiple)
        return min(-(-groups // self.count) * self.multiple, self.largest)

    def after(self, step: int, part: slice) -> tuple[int, slice]:
        """The step and the slice of the next micro-batch."""
        parts = self._parts()
        number = parts.index(part) + 1
        return (step, parts[number]) if number < len(parts) else (step + 1, parts[0])

    def _parts(self) -> list[slice]:
        return partition(self.share, self.count, self.multiple)

    def gradient(self, backward: Callable[[slice], Tensor], seed: int) -> Tensor:
        """Set every parameter's `grad` to the sum over the micro-batches of all ranks.

        Args:
            backward: adds the gradients of a slice of the share, and returns a tensor to sum.
            seed: of torch's generator.

        Returns the sum of these tensors over the micro-batches of this rank. If memory runs out on
        any rank, all repeat the step with twice as many micro-batches, from the same state. Raises
        torch.OutOfMemoryError if they cannot be smaller.
        """
        statistics = [buffer for net in self.nets for buffer in net.buffers()]
        before = torch._foreach_clone(statistics) if statistics else ()
        while True:
            torch.manual_seed(seed)
            for net in self.nets:
                net.zero_grad(set_to_none=True)
            total, memory_error = self._sum(backward)
            if not self.ranks.any(bool(memory_error))[0]:
                break
            self._divide(memory_error)
            for buffer, value in zip(statistics, before, strict=True):
                buffer.copy_(value)
        for net in self.nets:
            self.ranks.all_reduce_gradients(net)
        return total

    def _sum(self, backward: Callable[[slice], Tensor]) -> tuple[Tensor, str]:
        """The sum over this rank's micro-batches, and the error message if memory ran out."""
        try:
            return torch.stack([backward(part) for part in self._parts()]).sum(0), ""
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            if self.ranks.count > 1 and any(map(_has_sync_batch_norm, self.nets)):
                raise  # the other ranks are waiting in their forward passes
            return torch.zeros(()), str(error) or "out of memory"

    def _divide(self, memory_error: str) -> None:
        if self.count == self.max_count:
            raise torch.OutOfMemoryError(memory_error or "out of memory on another rank")
        self.count = min(2 * self.count, self.max_count)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _has_sync_batch_norm(net: nn.Module) -> bool:
    return any(isinstance(module, nn.SyncBatchNorm) for module in net.modules())
