"""What a trial needs, without weights, pixels or a device: parameters exactly, memory as far as tensors tell.

The network is built and run once on torch's meta device, which computes shapes and nothing else. Memory is that of one worker that
does the whole batch: weights, gradients, optimiser state, what autograd keeps of a micro-batch, and the two largest tensors of the
forward; or that of evaluation, where it is more. Left out are what torch itself takes (about half a gigabyte of the process on a
CPU, of the GPU for its context), cuDNN's workspaces, the caching allocator's slack and several workers' buckets. Half precision is
taken to halve activations and to add one half-precision copy of the weights. Under ZeRO memory depends on workers and is not said.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial

import torch

from trainables.adapters.engine import switch_on_checkpointing
from trainables.catalog import Estimate
from trainables.data.sources import open_table
from trainables.data.spec import DataSpec
from trainables.engine_spec import micro_batch_of
from trainables.meta_memory import kept_bytes, largest_pair_bytes, moments
from trainables.timm_cnn.images import EVAL_BATCH
from trainables.timm_cnn.model import FineTuned, build, optimizer_spec
from trainables.timm_cnn.spec import TimmCnnSpec
from tune.core.errors import FailTrial, Problem, UserError

_FP32_BYTES = 4
_STAND_IN = 2


def estimate(spec: TimmCnnSpec) -> Estimate:
    """Parameters and peak memory of a trial. Raises UserError for a model or an image size that cannot be had.

    Where the data are not here, which their preflight says, the last layer is taken to have `_STAND_IN` outputs.
    """
    n_classes, note = _n_classes(spec.data), None
    if n_classes is None:
        n_classes, note = _STAND_IN, f"counted with {_STAND_IN} classes, since the data are not here"
    module = _on_meta(spec, n_classes)
    parameters = list(module.parameters())
    total, trained = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
    memory = None if spec.engine.zero is not None else _peak_memory_bytes(spec, module, trained)
    return Estimate(trainable_parameters=trained, total_parameters=total, peak_memory_bytes=memory, note=note)


def _on_meta(spec: TimmCnnSpec, n_classes: int) -> FineTuned:
    with torch.device("meta"):
        module, _ = build(spec, n_classes, seed=0, with_weights=False)
    if spec.engine.activation_checkpointing:
        try:
            switch_on_checkpointing(module)
        except FailTrial as error:
            raise UserError(Problem("trainable.engine.activation_checkpointing", error.detail, "set it to false")) from None
    return module


def _peak_memory_bytes(spec: TimmCnnSpec, module: FineTuned, trained: int) -> int:
    fixed = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    of_gradients = trained * _FP32_BYTES
    of_optimizer = trained * _FP32_BYTES * moments(optimizer_spec(spec.optim))
    half = spec.engine.precision != "fp32"
    micro_batch = micro_batch_of(spec.batch, 1, spec.engine)
    peaks = []
    for size_px in sorted({phase.resolution_px for phase in spec.phase_list}):
        module.train()
        images = _pictures(micro_batch, size_px)
        run = partial(module, images)
        with _refused_sizes(spec, size_px):
            kept, working = kept_bytes(module, run), largest_pair_bytes(module, run)
        of_forward = (kept + working) // (2 if half else 1) + images.numel() * _FP32_BYTES
        peaks.append(fixed + of_gradients + of_optimizer + of_forward)
    for size_px in sorted({*spec.stress, *(phase.resolution_px for phase in spec.phase_list)}):
        module.eval()
        images = _pictures(EVAL_BATCH, size_px)
        with _refused_sizes(spec, size_px):
            working = largest_pair_bytes(module, partial(module, images))
        peaks.append(fixed + of_optimizer + working // (2 if half else 1) + images.numel() * _FP32_BYTES)
    copies = sum(p.numel() for p in module.parameters()) * 2 if half else 0
    return max(peaks) + copies


def _pictures(n: int, size_px: int) -> torch.Tensor:
    return torch.empty(n, 3, size_px, size_px, device="meta")


@contextmanager
def _refused_sizes(spec: TimmCnnSpec, size_px: int) -> Iterator[None]:
    """A size that the network does not take (a transformer's fixed patches, more strides than pixels) is the user's mistake."""
    try:
        yield
    except (AssertionError, RuntimeError, ValueError) as error:
        key = "trainable.stress" if size_px in spec.stress else "trainable.image_size"
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(Problem(key, f"{size_px}, which {spec.model.name} does not take: {said}", "use a size that it takes")) from error


@lru_cache(maxsize=8)
def _n_classes(data: DataSpec) -> int | None:
    """None where the data cannot be read. Of a plan's many points, they are looked at once."""
    try:
        return len(open_table(data).classes)
    except UserError:
        return None
