"""The outer edge of a trial: runs one attempt of one order and turns whatever comes out of it into an `End` with a name.

The one place where `except Exception` stands. Everything that a recipe can do short of ending the process ends here: named
failures, users' mistakes found late, a full disk, memory, a lost peer, and exceptions nobody thought of (named by their class).
"""

from __future__ import annotations

import errno
import gc
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainables import catalog
from trainables.adapters import checkpoint
from trainables.adapters.order import End, Order
from trainables.adapters.reporter import ChannelReporter, Failure
from trainables.shared_out import shared_out
from tune.core.errors import FailTrial, RetryTrial, StopStudy, UserError
from tune.core.ports import Answer, Decision, Question

_STORAGE_ERRNOS = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "storage_read_only",
    errno.EIO: "storage_lost",
    errno.ESTALE: "storage_lost",
}
_MEND_STORAGE = "free space or mend the storage, then resume the study"
_NO_SPACE_BYTES = 1 << 20  # writers of binary formats hide errno; with less than this free, the disk is what failed
_NO_MEMORY = re.compile(r"out of memory|_ALLOC_FAILED", re.IGNORECASE)
_DEVICE_FAULT = re.compile(r"CUDA error|CUBLAS_STATUS_|CUDNN_STATUS_|HIP error", re.IGNORECASE)
_REFUSED = re.compile(r"no kernel image|_NOT_SUPPORTED|_BAD_PARAM", re.IGNORECASE)  # by the device's library, which is well, and again
_PEER_LOST = re.compile(r"gloo|nccl|connection (closed|reset) by peer|process group", re.IGNORECASE)


class InStep(FailTrial):
    """A FailTrial that every rank raised at the same report."""


class Abandoned(RetryTrial):
    """Nobody waits for this trial any more. Every rank hears it at the same report."""


def attempt(order: Order, reporter: ChannelReporter) -> End:
    """Run the order's recipe to its end. Raises nothing but KeyboardInterrupt."""
    try:
        spec_class: Any = catalog.spec_class(order.kind)
        spec = shared_out(spec_class.model_validate(order.spec), order.workers, reporter.world_size)
        if reporter.report_again() == "stop":  # the stop was decided, and the process died before the recipe heard it
            after_stop = catalog.CATALOG[order.kind].after_stop
            if after_stop is not None:
                catalog.load(after_stop)(spec, reporter)
            return End("done")
        outcome = catalog.load(order.recipe)(spec, reporter)
        metrics = catalog.metrics_of(order.kind).validated(outcome.metrics, order.recipe)
        files = {name: str(path) for name, path in outcome.files.items()}
        return End("done", outcome.reason, outcome.detail, metrics=metrics, files=files)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the trial's outer edge
        end = end_of(error, Path(order.workdir))
        if end.kind != "stop" and not isinstance(error, (FailTrial, RetryTrial)):
            traceback.print_exc()
        traceback.clear_frames(error.__traceback__)  # a frame would keep the model
        return end


def end_of(error: BaseException, workdir: Path) -> End:
    """The end that an exception stands for."""
    match error:
        case FailTrial():
            return End("failed", error.reason, error.detail, in_step=isinstance(error, InStep))
        case RetryTrial():
            return End("retry", error.reason, error.detail, in_step=isinstance(error, Abandoned))
        case StopStudy():
            return End("stop", error.reason, error.detail, error.fix)
        case UserError():
            return End("failed", "user_error", str(error))
        case SystemExit():
            return End("failed", "exited", f"the recipe called sys.exit({error.code!r}){_where(error)}")
    name = type(error).__name__
    text = f"{name}: {error}{_where(error)}"
    storage = _storage_failure(error, workdir)
    if storage is not None:  # no fault of the trial: the next one would meet it too
        return End("stop", storage, text, _MEND_STORAGE)
    of_device = name == "AcceleratorError" or (isinstance(error, RuntimeError) and _DEVICE_FAULT.search(str(error)) is not None)
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or (of_device and _NO_MEMORY.search(str(error))):
        return End("retry", "out_of_memory", text, spoilt=True)
    if name.startswith("Dist") or (isinstance(error, RuntimeError) and _PEER_LOST.search(str(error))):
        return End("retry", "worker_lost", text, spoilt=True)
    if of_device and "device-side assert" in str(error):  # an index out of range: the trial's own, and the same again
        return End("failed", "device_assert", text, spoilt=True)
    if of_device and not _REFUSED.search(str(error)):  # nothing more can be computed in this process
        return End("retry", "device_fault", text, spoilt=True)
    return End("failed", re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower(), text)


def trouble_with(workdir: Path) -> OSError | None:
    """Make the trial's folder fit for an attempt, before any rank of it runs."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        checkpoint.recover(workdir)
    except OSError as error:
        return error
    return None


def free_memory() -> None:
    """Give back what the last trial left: cycles, and the GPU allocator's cache if torch is loaded.

    What lives after the first trial are imported modules, which stay: later collections need not walk them.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_in_foreground(
    order: Order,
    on_report: Callable[[int, dict[str, float]], Decision],
    gpus: float = 0,
    on_ask: Callable[[Question], Answer] = lambda question: True,
) -> tuple[Any, ...]:
    """Run a trial in this process, so that a breakpoint in the recipe works. Returns its last message as a group would send
    it. An error of `on_report` that is not a FailTrial is raised."""
    workdir = Path(order.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoint.recover(workdir)
    device = "cpu"
    if gpus:
        import torch

        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    channel = _Foreground(on_report, on_ask)
    end = attempt(order, ChannelReporter(order, channel, 0, 1, device))
    if channel.error is not None:
        raise channel.error
    free_memory()
    return end.message()


class _Foreground:
    """The channel of the only rank of a trial in this process."""

    def __init__(self, on_report: Callable[[int, dict[str, float]], Decision], on_ask: Callable[[Question], Answer]):
        self._on_report, self._on_ask = on_report, on_ask
        self.error: BaseException | None = None  # the search's own trouble, which is not the trial's

    def meet(self, what: str, failure: Failure | None) -> None:
        raise AssertionError("one rank has nobody to meet")

    def ask(self, question: Question) -> Answer:
        return self._on_ask(question)

    def report(self, step: int, metrics: Mapping[str, float], failure: Failure | None) -> Decision:
        if failure is not None:
            raise FailTrial(*failure)
        try:
            return self._on_report(step, dict(metrics))
        except FailTrial:
            raise
        except BaseException as error:
            self.error = error
            raise


def _storage_failure(error: BaseException, workdir: Path) -> str | None:
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in _STORAGE_ERRNOS:
            return _STORAGE_ERRNOS[chain.errno]
        if "No space left on device" in str(chain):
            return "disk_full"
        chain = chain.__cause__ or chain.__context__
    if isinstance(error, (OSError, RuntimeError)) and workdir.exists() and shutil.disk_usage(workdir).free < _NO_SPACE_BYTES:
        return "disk_full"
    return None


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
