"""Copies of batches to a GPU that are made while it computes: from pinned memory, on a stream of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unipool_dist.data.batches import Batch


@dataclass(frozen=True)
class Arriving:
    """A batch on its way to the device."""

    batch: Batch
    arrived: torch.cuda.Event | None
    """``None``: it is there."""

    def wait(self) -> Batch:
        """Return the batch; what the current stream does from now on finds it complete. The host does not wait."""
        if self.arrived is not None:
            stream = torch.cuda.current_stream(self.batch.tokens.device)
            stream.wait_event(self.arrived)
            for tensor in (self.batch.tokens, self.batch.labels, self.batch.loss_mask):
                tensor.record_stream(stream)  # or its memory would be given away when the copying stream is done
        return self.batch


class DeviceCopies:
    """Sends batches to ``device``; on a CPU they stay where they are."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, batch: Batch) -> Arriving:
        """Begin to copy ``batch``; may be called from any thread."""
        if self._stream is None:
            return Arriving(batch.to(self._device), None)
        # The device of a new thread is the first one, where pinning would begin a context of this process.
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            # The allocator of pinned memory does not reuse it before the copy is done.
            copy = batch.pinned().to(self._device, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        return Arriving(copy, arrived)
