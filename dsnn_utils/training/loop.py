"""Training and evaluation of a network on a Dataset held in memory.

One plain loop: batches are drawn and augmented on uint8 tensors, run in bfloat16 where the
hardware has it, and checked for divergence. Evaluation is always in float32, because most values
of wide fixed-point activations are not representable in bfloat16.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dsnn_utils.checks import check_integer, check_number, is_number, require, require_choice
from dsnn_utils.shift.activations import check_fitted, fitting
from dsnn_utils.shift.layers import ShiftConv2d, ShiftLinear
from dsnn_utils.shift.modes import denormals_flushed, eval_mode
from dsnn_utils.training.checkpoints import Checkpoint
from dsnn_utils.training.data import Dataset
from dsnn_utils.training.graphs import Replayed
from dsnn_utils.training.images import ImageSet

SCHEDULES = ("one_cycle", "constant")
PRECISIONS = ("auto", "float32", "bfloat16")
DISTILLATION_TEMPERATURE = 4.0
FIT_EVERY = 16  # steps between two looks at the activations of layers with a fitted format


class Diverged(RuntimeError):
    """The loss became infinite or not a number."""

    def __init__(self, epoch: int, step: int):
        super().__init__(f"training diverged: loss not finite in epoch {epoch}, step {step}")
        self.epoch, self.step = epoch, step

    def __reduce__(self):  # RuntimeError would be rebuilt from the message alone
        return Diverged, (self.epoch, self.step)


class Ranger(torch.optim.RAdam):
    """RAdam with Lookahead (Zhang et al., 2019, arXiv 1907.08610).

    Every `LOOKAHEAD_STEPS` steps a second, slow copy of the weights moves `LOOKAHEAD_PACE` of
    the way to the trained ones, which continue from there.
    """

    LOOKAHEAD_STEPS = 6
    LOOKAHEAD_PACE = 0.5

    @torch.no_grad()
    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"]]
        start = {p: p.clone() for p in parameters if p not in self.state}
        loss = super().step(closure)
        for p in parameters:
            state = self.state.get(p)
            if not state:  # no gradient so far
                continue
            slow = state.setdefault("slow", start.get(p))
            if state["step"] % self.LOOKAHEAD_STEPS == 0:
                p.copy_(slow.lerp_(p, self.LOOKAHEAD_PACE))
        return loss


OPTIMIZERS = ("SGD", "Adam", "Adadelta", "Adagrad", "RMSprop", "RAdam", "Ranger")


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@denormals_flushed()
def train(
    model: nn.Module,
    dataset: Dataset,
    *,
    optimizer: str = "SGD",
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    batch_size: int = 128,
    epochs: int = 10,
    schedule: str = "one_cycle",
    label_smoothing: float = 0.0,
    augment: bool = True,
    precision: str = "auto",
    device: str | torch.device = "auto",
    seed: int = 0,
    on_epoch: Callable[[dict], None] | None = None,
    checkpoint: str | Path | None = None,
    teacher: nn.Module | None = None,
    distillation: float = 0.5,
    cuda_graphs: bool = False,
) -> list[dict]:
    """Train `model` in place on `dataset.train` and return its history.

    The model is moved to `device` and, unless it reshapes with `view`, to the channels_last
    memory format, and left in training mode. One dict per epoch,
    also given to `on_epoch` as soon as it is known: `epoch` (from 1), `train_loss` and
    `train_accuracy` (of the augmented batches, while learning), `validation_loss` and
    `validation_accuracy`, `lr` (of the epoch's last step), `duration_s` (with validation).

    `momentum` is used by SGD (Nesterov) and RMSprop, the others have none. `weight_decay`
    acts on weight matrices and kernels only: not on PS layers' `shift` and `sign`, nor on
    one-dimensional parameters (biases, normalisation). `schedule` "one_cycle" warms up to
    `lr` over the first 30 % of all steps and anneals to zero (a cycle needs at least 3 steps,
    fewer are made at `lr`); "constant" keeps `lr`.
    `augment` crops at random from the image with a border of an eighth of its size and, if
    `dataset.flip`, mirrors every second image. `precision` "auto" is bfloat16 where the
    hardware computes in it and float32 elsewhere. A last batch of a single image is left out:
    batch normalisation has no variance to offer for it.

    With a `teacher`, a trained network, the loss is (1 - d) cross entropy + d T^2 KL(teacher,
    model), the logits of both divided by T = 4 in the second term (Hinton et al., 2015, arXiv
    1503.02531), d being `distillation`.

    The same seed on the same CPU and thread count gives the same weights and history. The global
    generators are seeded (stochastic rounding draws from them).

    With `checkpoint`, a file, all that the training needs to go on is kept there after each
    epoch. Called again with the same arguments it goes on from there and ends with the same bits as
    a training that was never interrupted; `on_epoch` is called for the earlier epochs as well.

    `cuda_graphs` replays recorded steps (`training.graphs`) and needs a GPU. It is an experiment:
    three to five times as fast, but a network of PS layers with 4-bit activations has diverged
    with it that learns without.

    Raises ValueError for a bad argument, and for a checkpoint of another training or one that
    cannot be read; Diverged for a loss that is not finite.
    """
    arguments = locals().copy()
    others = {"model", "dataset", "on_epoch", "checkpoint", "device", "teacher", "distillation"}
    others |= {"cuda_graphs"}
    training = {name: value for name, value in arguments.items() if name not in others}
    require_choice("optimizer", optimizer, OPTIMIZERS)
    require_choice("schedule", schedule, SCHEDULES)
    require_choice("precision", precision, PRECISIONS)
    require(is_number(lr) and lr > 0, f"{lr=}: must be a number above 0")
    for name, value in (("momentum", momentum), ("label_smoothing", label_smoothing)):
        require(is_number(value) and 0 <= value < 1, f"{name}={value!r}: must be in [0, 1)")
    check_number("weight_decay", weight_decay, 0)
    batch_size = check_integer("batch_size", batch_size, 2)
    epochs = check_integer("epochs", epochs, 0)
    seed = check_integer("seed", seed, 0)
    device = resolve_device(device)
    on_gpu = device.type == "cuda"
    require(on_gpu or not cuda_graphs, f"{cuda_graphs=}: must be False on a CPU")
    if epochs == 0:
        return []

    normalise = _place(model, dataset, device)
    if teacher is not None:
        _place(teacher, dataset, device)
        teacher.eval()
    seed_everything(seed)
    generator = torch.Generator().manual_seed(seed)  # batches do not depend on the model's draws
    data, validation = (part.to(device) for part in (dataset.train, dataset.validation))
    autocast = torch.autocast(
        device.type,
        torch.bfloat16,
        enabled=_bfloat16(precision, device),
        cache_enabled=not on_gpu,  # a recording must contain all there is to do
    )
    network = Replayed(model) if cuda_graphs else model
    updates = _build_optimizer(model, optimizer, lr, momentum, weight_decay)
    steps = math.ceil(len(data) / batch_size) - (len(data) % batch_size == 1)
    scheduler = None
    if schedule == "one_cycle" and steps * epochs >= 3:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            updates, lr, total_steps=steps * epochs, cycle_momentum=False
        )
    # Reading the loss makes a GPU wait for it: there, only now and then.
    check_every = 50 if on_gpu else 1

    history: list[dict] = []
    kept = None
    if checkpoint is not None:
        training |= {"dataset": dataset.name, "train_images": len(data)}
        training |= {"distillation": None if teacher is None else distillation}
        kept = Checkpoint(Path(checkpoint), training, model, updates, scheduler, generator)
        history = kept.restore()
    if on_epoch is not None:
        for row in history:
            on_epoch(row)
    for epoch in range(len(history) + 1, epochs + 1):
        started = time.perf_counter()
        total_loss = torch.zeros((), dtype=torch.float64, device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        seen = 0
        model.train()
        batches = torch.randperm(len(data), generator=generator).split(batch_size)[:steps]
        for step, indices in enumerate(batches, start=1):
            batch = data[_moved(indices, device)]
            labels = batch.labels
            images = _augment(batch.images, dataset.flip, generator) if augment else batch.images
            pixels = normalise(images)
            with autocast, fitting(model, now=step % FIT_EVERY == 1):
                logits = network(pixels)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
            if teacher is not None:
                with autocast, torch.no_grad():
                    wanted = teacher(pixels)
                loss = loss.lerp(_distillation_loss(logits, wanted), distillation)
            total_loss += loss.detach() * len(labels)
            correct += (logits.detach().argmax(1) == labels).sum()
            seen += len(labels)
            if step % check_every == 0 or step == steps:
                if not torch.isfinite(total_loss):
                    raise Diverged(epoch, step)
            updates.zero_grad()
            loss.backward()
            updates.step()
            # Still alive in the next step, they would tie its recording to another stream.
            del logits, loss
            step_lr = updates.param_groups[0]["lr"]
            if scheduler is not None:
                scheduler.step()
        result = evaluate(model, validation, dataset, device=device)
        if not math.isfinite(result["cross_entropy"]):
            raise Diverged(epoch, steps)
        history.append(
            {
                "epoch": epoch,
                "train_loss": total_loss.item() / seen,
                "train_accuracy": correct.item() / seen,
                "validation_loss": result["cross_entropy"],
                "validation_accuracy": result["accuracy"],
                "lr": step_lr,
                "duration_s": time.perf_counter() - started,
            }
        )
        if kept is not None:
            kept.write(history)
        if on_epoch is not None:
            on_epoch(history[-1])
    return history


def _distillation_loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How far the softened predictions are from those of the teacher, in nats times T^2."""
    soft, target = (
        F.log_softmax(part.float() / DISTILLATION_TEMPERATURE, dim=1) for part in (logits, wanted)
    )
    divergence = F.kl_div(soft, target, reduction="batchmean", log_target=True)
    return DISTILLATION_TEMPERATURE**2 * divergence


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: ImageSet,
    dataset: Dataset,
    *,
    batch_size: int = 128,
    device: str | torch.device = "auto",
) -> dict[str, float]:
    """Mean `cross_entropy` (nats) and `accuracy` (0..1) of `model` on `images`.

    Always in float32 and evaluation mode; every module's mode is restored. `dataset` gives the
    mean and std for the normalisation. The model is moved to `device`.
    """
    loss, correct = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
    for logits, labels in _outputs(model, images, dataset, batch_size, device):
        loss = loss.to(logits.device) + F.cross_entropy(logits, labels, reduction="sum")
        correct = correct.to(logits.device) + (logits.argmax(1) == labels).sum()
    return {
        "cross_entropy": loss.item() / len(images),
        "accuracy": correct.item() / len(images),
    }


@torch.no_grad()
def predict(
    model: nn.Module,
    images: ImageSet,
    dataset: Dataset,
    *,
    batch_size: int = 128,
    device: str | torch.device = "auto",
) -> torch.Tensor:
    """The probability (0..1) that `model` gives each class for each of `images`.

    Shape (images, classes), float32, on the CPU; computed as by `evaluate`.
    """
    outputs = _outputs(model, images, dataset, batch_size, device)
    return torch.cat([logits.softmax(1).cpu() for logits, _ in outputs])


def _outputs(
    model: nn.Module,
    images: ImageSet,
    dataset: Dataset,
    batch_size: int,
    device: str | torch.device,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits and labels of one batch after the other, on the device."""
    check_integer("batch_size", batch_size, 1)
    require(len(images) > 0, "images: must hold at least one image")
    device = resolve_device(device)
    check_fitted(model)
    normalise = _place(model, dataset, device)
    # TF32, a GPU's way of convolving float32, has 10 bits of fraction only.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with eval_mode(model), torch.autocast(device.type, enabled=False), exact:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            yield model(normalise(batch.images)), batch.labels.to(device)


def resolve_device(device: str | torch.device) -> torch.device:
    """The device meant, "auto" being the GPU if there is one. ValueError if it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        available = chosen.type == "cpu" or (chosen.type == "cuda" and torch.cuda.is_available())
    except (RuntimeError, TypeError):
        available = False
    require(available, f"{device=}: must be auto, cpu, or cuda on a machine that has it")
    return chosen


def _bfloat16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older releases
    return bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16"))


def _build_optimizer(
    model: nn.Module, name: str, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    layers = [m for m in model.modules() if isinstance(m, (ShiftConv2d, ShiftLinear))]
    ps = {id(p) for m in layers if m.spec.shift_type == "PS" for p in (m.shift, m.sign)}
    for parameter in model.parameters():
        if parameter.requires_grad:
            exempt = id(parameter) in ps or parameter.ndim < 2
            (undecayed if exempt else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {}
    if name == "SGD":
        options = {"momentum": momentum, "nesterov": momentum > 0, "fused": True}
    elif name == "RMSprop":
        options = {"momentum": momentum}
    elif name == "Adam":
        options = {"fused": True}
    optimizer_class = Ranger if name == "Ranger" else getattr(torch.optim, name)
    return optimizer_class([g for g in groups if g["params"]], lr=lr, **options)


def _augment(batch: torch.Tensor, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Images, uint8 (B, C, H, W), cropped and mirrored at random.

    Crop and flip are one gather: each image has its own rows and columns to read.
    """
    device = batch.device
    count, channels, height, width = batch.shape
    border_y, border_x = max(1, height // 8), max(1, width // 8)
    batch = F.pad(batch, (border_x, border_x, border_y, border_y))  # black
    rows = torch.randint(2 * border_y + 1, (count, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(2 * border_x + 1, (count, 1), generator=generator) + torch.arange(width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = _moved(rows, device), _moved(columns, device)
    pixels = rows[:, :, None] * batch.shape[3] + columns[:, None, :]
    pixels = pixels.view(count, 1, -1).expand(-1, channels, -1)
    return batch.flatten(2).gather(2, pixels).view(count, channels, height, width)


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; from pinned memory, since else the copy waits for earlier work."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _place(model: nn.Module, dataset: Dataset, device: torch.device):
    """Move the model to the device; returns the function that makes its input from uint8 images.

    In the channels_last format, which is faster here, unless a network cannot work on it.
    """
    model.to(device).to(memory_format=torch.channels_last)
    normalise = _normaliser(dataset, device)
    with torch.no_grad(), eval_mode(model), torch.autocast(device.type, enabled=False):
        try:
            model(normalise(dataset.train[:1].images))
        except RuntimeError as error:
            if "view" not in str(error):
                raise
            model.to(memory_format=torch.contiguous_format)
            return lambda images: normalise(images).contiguous()
    return normalise


def _normaliser(dataset: Dataset, device: torch.device):
    """A function from uint8 (B, C, H, W) to normalised float32 in the channels_last format."""
    mean, std = (torch.tensor(x, device=device) * 255 for x in (dataset.mean, dataset.std))

    def normalise(images: torch.Tensor) -> torch.Tensor:
        pixels = images.to(device).permute(0, 2, 3, 1).contiguous().float()
        return pixels.sub_(mean).div_(std).permute(0, 3, 1, 2)

    return normalise
