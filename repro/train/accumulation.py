"""The gradient of a batch, a micro-batch at a time, of a size that fits into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from repro import memory
from repro.train.distributed import Ranks, parts


class MicroBatches:
    """Divides a rank's share of a batch, and divides it further when memory runs out.

    All ranks have the same number of micro-batches, since each of them synchronises BatchNorms. A
    micro-batch has at most `limit` images (None: the whole share), in whole groups of `multiple`;
    one group more where the shares of the ranks differ. `halvings`: how often earlier attempts ran
    out of memory; the largest of any rank counts.
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
        lengths: list[int] = [s.stop - s.start for s in parts(batch_size, ranks.count, multiple)]
        self.share, self.largest = lengths[ranks.rank], max(lengths)
        self.most = max(1, min(lengths) // multiple)  # so that none is empty
        (limit,) = ranks.least((limit or self.largest) >> halvings)
        each = max(1, limit // multiple) * multiple
        self.count: int = min(-(-self.largest // each), self.most)

    @property
    def size(self) -> int:
        """Images of the largest micro-batch."""
        groups = -(-self.largest // self.multiple)
        return min(-(-groups // self.count) * self.multiple, self.largest)

    def after(self, step: int, part: slice) -> tuple[int, slice]:
        """The step and the part of the micro-batch that follows."""
        each = self._parts()
        number = each.index(part) + 1
        return (step, each[number]) if number < len(each) else (step + 1, each[0])

    def _parts(self) -> list[slice]:
        return parts(self.share, self.count, self.multiple)

    def gradient(self, backward: Callable[[slice], Tensor], seed: int) -> Tensor:
        """Every parameter's `grad` becomes the sum over the micro-batches of all ranks.

        Args:
            backward: adds the gradients of a part of the share, and returns what is summed.
            seed: of torch's generator.

        Returns the sum over the micro-batches of this rank. If memory runs out on any rank, all
        begin the step again with twice as many micro-batches, from the same state. Raises
        torch.OutOfMemoryError if they cannot be smaller.
        """
        statistics = [buffer for net in self.nets for buffer in net.buffers()]
        before = torch._foreach_clone(statistics) if statistics else ()
        while True:
            torch.manual_seed(seed)
            for net in self.nets:
                net.zero_grad(set_to_none=True)
            total, lack = self._sum(backward)
            if not self.ranks.any(bool(lack))[0]:
                break
            self._divide(lack)
            for buffer, value in zip(statistics, before, strict=True):
                buffer.copy_(value)
        for net in self.nets:
            self.ranks.add_up_gradients(net)
        return total

    def _sum(self, backward: Callable[[slice], Tensor]) -> tuple[Tensor, str]:
        """The sum over this rank's micro-batches; and what was said, if memory ran out."""
        try:
            return torch.stack([backward(part) for part in self._parts()]).sum(0), ""
        except RuntimeError as error:
            if not memory.is_lack(error):
                raise
            if self.ranks.count > 1 and any(map(_synchronises, self.nets)):
                raise  # the other ranks wait within their forward passes
            return torch.zeros(()), str(error) or "out of memory"

    def _divide(self, lack: str) -> None:
        if self.count == self.most:
            raise torch.OutOfMemoryError(lack or "out of memory on another rank")
        self.count = min(2 * self.count, self.most)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _synchronises(net: nn.Module) -> bool:
    return any(isinstance(module, nn.SyncBatchNorm) for module in net.modules())
