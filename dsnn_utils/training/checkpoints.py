"""A file from which a training that was killed goes on, bit for bit as if it never stopped."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Checkpoint:
    """Everything a training changes, written to one file after each epoch.

    That is the network, the optimizer with its momenta, the schedule, the generators that draw
    batches and stochastic roundings, and the history. `settings` name the training: a file of
    another one is refused, since what came out would be a mixture of two.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None,
        generator: torch.Generator,
    ):
        self._path, self._settings = path, dict(settings)
        self._parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
        if scheduler is not None:
            self._parts["scheduler"] = scheduler
        self._generator = generator

    def write(self, history: list[dict]) -> None:
        """Replace the file at once: a kill leaves the old one or the new one."""
        state = {
            "settings": self._settings,
            "history": history,
            "generator": self._generator.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),  # an empty list without a GPU
            **{name: part.state_dict() for name, part in self._parts.items()},
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        torch.save(state, temporary)
        os.replace(temporary, self._path)

    def restore(self) -> list[dict]:
        """Put everything back as it was; returns the history, empty where there is no file yet."""
        if not self._path.exists():
            return []
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
            settings = state["settings"]
        except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"checkpoint={str(self._path)!r}: cannot be read ({error}); delete it to start anew"
            ) from error
        for name in sorted(settings.keys() | self._settings.keys()):
            before, now = settings.get(name), self._settings.get(name)
            if before != now:
                raise ValueError(
                    f"checkpoint={str(self._path)!r}: is of a training with {name}={before!r}, "
                    f"this one has {now!r}; delete it to start anew"
                )
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self._generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        if len(state["cuda"]) == torch.cuda.device_count():  # else on another machine
            torch.cuda.set_rng_state_all(state["cuda"])
        return state["history"]
