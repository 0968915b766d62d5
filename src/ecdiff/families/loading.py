"""Loading one side's parts, each once, quietly, and with one clear line when it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from huggingface_hub import constants

from ecdiff.errors import InputError, PairError
from ecdiff.quiet import quiet_hub, quiet_transformers
from ecdiff.sources import NO_LIMIT, Memory, Side, Source, read_json, reason


class Loader:
    """Loads the parts of one side onto `device` in `dtype`."""

    def __init__(
        self, side: Side, device: torch.device, dtype: torch.dtype, memory: Memory = NO_LIMIT
    ) -> None:
        """Raises InputError for an offload without a GPU to take parts off."""
        memory.check(device.type)
        self.device, self.dtype, self.memory = device, dtype, memory
        self._side = side
        self._turns = TakeTurns(device)

    def network(self, kind: Any, name: str) -> Any:
        """The U-Net or transformer."""
        return self._load(kind, self._side.network or self._side.model, name, self.dtype)

    def part(self, kind: Any, name: str, dtype: torch.dtype | None = None) -> Any:
        """A part that is the model's own. Raises PairError naming it."""
        return self._load(kind, self._side.model, name, dtype or self.dtype)

    def lazy(
        self, kind: Any, name: str, now: bool, dtype: torch.dtype | None = None
    ) -> Callable[[], Any]:
        """A part that is loaded on the first call, or `now`; then always the same."""
        part = Once(partial(self.part, kind, name, dtype))
        if now:
            part()
        return part

    def vae(self, now: bool, dtype: torch.dtype | None = None) -> Callable[[], Any]:
        """The autoencoder, tiled and sliced as asked for."""
        from diffusers import AutoModel

        def load() -> Any:
            vae = self.part(AutoModel, "vae", dtype)
            for wanted, name in (
                (self.memory.vae_tiling, "enable_tiling"),
                (self.memory.vae_slicing, "enable_slicing"),
            ):
                if wanted and not hasattr(vae, name):
                    raise InputError(f"{type(vae).__name__} has no {name.removeprefix('enable_')}")
                if wanted:
                    getattr(vae, name)()
            return vae

        part = Once(load)
        if now:
            part()
        return part

    def tokenizer(self, kind: Any, name: str = "tokenizer") -> Any:
        source = self._side.model
        try:
            with quiet_transformers(), quiet_hub():
                return kind.from_pretrained(
                    source.repo,
                    subfolder=name,
                    revision=source.revision,
                    local_files_only=constants.HF_HUB_OFFLINE,
                )
        except Exception as error:  # each library has its own
            raise PairError(f"cannot load {name} of {source}: {reason(error, source)}") from error

    def lazy_tokenizer(self, kind: Any, now: bool) -> Callable[[], Any]:
        tokenizer = Once(partial(self.tokenizer, kind))
        if now:
            tokenizer()
        return tokenizer

    def pipeline_config(self) -> dict[str, Any]:
        return read_json(self._side.model, "model_index.json")

    @property
    def name(self) -> str:
        return str(self._side.model)

    def config(self, name: str) -> dict[str, Any]:
        """The configuration of a part that need not be loaded."""
        return read_json(self._side.model, f"{name}/config.json")

    def scheduler_config(self) -> dict[str, Any]:
        return read_json(self._side.model, "scheduler/scheduler_config.json")

    def _load(self, kind: Any, source: Source, name: str, dtype: torch.dtype) -> Any:
        """A part whose `variant` is missing is taken from the plain files and converted."""
        loaded, first = None, None
        for variant in dict.fromkeys((source.variant, None)):
            try:
                with quiet_transformers(), quiet_hub():
                    loaded = kind.from_pretrained(
                        source.repo,
                        subfolder=name,
                        revision=source.revision,
                        variant=variant,
                        torch_dtype=dtype,
                        local_files_only=constants.HF_HUB_OFFLINE,  # else it asks for shards
                    )
                break
            except Exception as error:  # each library has its own
                first = first or error
        if loaded is None:
            assert first is not None
            raise PairError(f"cannot load {name} of {source}: {reason(first, source)}") from first
        loaded = loaded.eval().requires_grad_(False)
        return (
            add_hook_to_module(loaded, self._turns)
            if self.memory.offload
            else loaded.to(self.device)
        )


class TakeTurns(ModelHook):  # type: ignore[misc]  # accelerate has no types
    """Offload: the part that works is on the GPU, all others wait in main memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._at_work: Any = None

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if self._at_work is not module:
            if self._at_work is not None:
                self._at_work.to("cpu")
            self._at_work = module.to(self._device)
        return args, kwargs


class Once:
    """A value made on the first call, by one thread only."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: list[Any] = []

    def __call__(self) -> Any:
        with self._lock:
            if not self._made:
                self._made.append(self._make())
        return self._made[0]


def check_vocabulary(tokenizer: Any, text_encoder: Any, source: str) -> None:
    """Raises PairError for a tokenizer that is not this text encoder's, or misses its files."""
    known, wanted = len(tokenizer), text_encoder.config.vocab_size
    if known > wanted or known < wanted // 2:
        raise PairError(
            f"cannot load tokenizer of {source}: it knows {known} tokens, the text encoder {wanted}"
        )
