"""Console lines for a training step, a domain's validation and a checkpoint: fixed width, so that columns line up."""

from __future__ import annotations

from collections.abc import Mapping

from unipool_dist.base.printable import printable
from unipool_dist.observe.metrics import TRAIN_KEYS


def train_line(record: Mapping[str, float | int], total_steps: int, *, maxima: bool = False) -> str:
    """Format step, loss (nats per token), auxiliary loss, gradient norm, learning rate, tokens/s.

    Where the record has them: TFLOP/s per device, MFU, memory and the time left.

    With ``maxima`` the highest loss, auxiliary loss and gradient norm of the window follow their means.

    ``record`` is what :meth:`~unipool_dist.observe.metrics.MetricsWriter.train` takes; ``memory_bytes`` in it is the
    largest of any rank.
    """
    assert all(key in record for key in TRAIN_KEYS), sorted(record)
    parts = [
        _step(int(record["step"]), total_steps),
        _mean_and_maximum(record, "loss", "loss", "7.4f", maxima),
        _mean_and_maximum(record, "aux", "aux_loss", "8.5f", maxima),
        _mean_and_maximum(record, "grad norm", "grad_norm", "8.3f", maxima),
        f"lr {record['lr']:8.2e}",
        f"{record['tokens_per_s']:9,.0f} tokens/s",
    ]
    if "tflops_per_device" in record:
        parts.append(f"{record['tflops_per_device']:8.3f} TFLOP/s")
    if "mfu" in record:
        parts.append(f"MFU {record['mfu']:6.1%}")
    if "memory_bytes" in record:
        parts.append(f"{record['memory_bytes'] / 2**30:6.2f} GiB")
    if "eta_s" in record:
        parts.append(f"left {_duration(record['eta_s'])}")
    return "  ".join(parts)


def validation_line(
    step: int,
    total_steps: int,
    domain: str,
    loss: float,
    bits_per_byte: float,
    unigram_entropy: float | None = None,
) -> str:
    """Format the loss of one domain and its unigram entropy, both in nats per token, and bits per byte.

    The unigram entropy is the loss of a model that knows token frequencies only.
    """
    line = f"{_step(step, total_steps)}  validation  {printable(domain):<16.16}  loss {loss:7.4f}"
    if unigram_entropy is not None:
        line += f"  (unigram {unigram_entropy:7.4f})"
    return f"{line}  {bits_per_byte:6.3f} bits/byte"


def checkpoint_line(step: int, total_steps: int, num_bytes: int, write_s: float, stall_s: float) -> str:
    """Format the bytes on disk of all ranks, the seconds of writing, and the seconds that training waited."""
    return (
        f"{_step(step, total_steps)}  checkpoint  {num_bytes / 1e6:,.1f} MB in {write_s:.2f} s, training waited "
        f"{stall_s:.3f} s"
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:3d}:{minutes:02d}:{seconds:02d}"


def _mean_and_maximum(record: Mapping[str, float | int], label: str, key: str, form: str, maxima: bool) -> str:
    highest = f" (max {record[f'{key}_max']:{form}})" if maxima else ""
    return f"{label} {record[key]:{form}}{highest}"


def _step(step: int, total_steps: int) -> str:
    width = len(str(total_steps))
    return f"step {step:>{width}}/{total_steps}"
