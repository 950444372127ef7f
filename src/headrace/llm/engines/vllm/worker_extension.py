"""Mixed into vLLM's workers, in their processes: tells how loading goes, and how much memory the weights take.

vLLM imports this module in each worker before the model is loaded. It must not import what takes long.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from typing import Any

PROGRESS = "HEADRACE_VLLM_PROGRESS"
"""The variable with the path of the pipe that progress is written to."""


class WorkerExtension:
    """vLLM makes its worker class inherit from this; its methods can then be called with `collective_rpc`."""

    def headrace_weights_bytes(self) -> int:
        """Bytes that the model's weights take in this worker: as they were loaded, or as they are now if that is more.

        On CPUs vLLM packs them in a way of its own and out of sight, which takes about as much as before.
        """
        return max(_loaded_bytes, _bytes_of(self.get_model()))  # type: ignore[attr-defined]


_loaded_bytes = 0


def _bytes_of(model: Any) -> int:
    """Bytes of a model's parameters and buffers; each is counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    by_place = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(by_place.values())


def measure_loaded() -> None:
    """Make vLLM measure a model between loading and packing."""
    loader = importlib.import_module("vllm.model_executor.model_loader.base_loader")
    pack = getattr(loader, "process_weights_after_loading", None)
    if pack is None or getattr(pack, "measures_for_headrace", False):
        return

    def measured(model: Any, *args: Any, **kwargs: Any) -> Any:
        global _loaded_bytes
        if not any(parameter.is_cuda for parameter in model.parameters()):
            _loaded_bytes = _bytes_of(model)
        return pack(model, *args, **kwargs)

    measured.measures_for_headrace = True  # type: ignore[attr-defined]
    vars(loader)["process_weights_after_loading"] = measured


def report(stage: str, fraction: float | None) -> None:
    """One line into the pipe. Nobody may wait for it, and loading must not fail for it."""
    path = os.environ.get(PROGRESS)
    if path is None:
        return
    line = json.dumps({"stage": stage, "fraction": fraction}) + "\n"
    try:
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(pipe, line.encode())
        finally:
            os.close(pipe)
    except OSError:
        pass


def report_bars() -> None:
    """Make vLLM's progress bars report too. Those for files of weights know how many there are, those of downloads how
    many bytes or files."""
    weight_utils = importlib.import_module("vllm.model_executor.model_loader.weight_utils")
    tqdm = getattr(weight_utils, "tqdm", None)
    if tqdm is None or getattr(tqdm, "reports_to_headrace", False):
        return

    class Loading(tqdm):  # type: ignore[misc, valid-type]
        reports_to_headrace = True

        def __iter__(self) -> Iterator[Any]:
            if self.disable:
                yield from super().__iter__()
                return
            report("loading weights", 0.0)
            for done, item in enumerate(super().__iter__(), start=1):
                yield item
                if self.total:
                    report("loading weights", done / self.total)
            report("warming up", None)

    vars(weight_utils)["tqdm"] = Loading
    silent = getattr(weight_utils, "DisabledTqdm", None)
    if silent is None:
        return

    class Downloading(silent):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._done = 0.0
            if kwargs.get("total"):
                report("downloading", 0.0)

        def update(self, n: float | None = 1) -> Any:
            self._done += n or 0
            if self.total:
                report("downloading", min(1.0, self._done / self.total))
            return super().update(n)

    vars(weight_utils)["DisabledTqdm"] = Downloading


if PROGRESS in os.environ:
    report_bars()
    measure_loaded()
