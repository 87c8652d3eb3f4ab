"""One trained network, computed in every way there is: to be measured in turn."""

import copy
import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from dsnn_utils.deploy.export import checksum, export_onnx
from dsnn_utils.deploy.runtimes import has_vnni, load_onnx
from dsnn_utils.training.networks import KEY, SavedNetwork


def quantize_after_training(float_onnx: str | Path, images: Tensor, path: str | Path) -> Path:
    """An exported plain network with int8 weights and activations; returns the path.

    This is what one has without training for it: ONNX Runtime's `quantize_static`, a scale for each
    output channel and each tensor of activations, from the range seen on the (normalised) `images`.
    Where this processor has no VNNI the weights have 7 bits, as ONNX Runtime advises: with 8 the
    sum of two products of bytes overflows 16 bits.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(quantization.CalibrationDataReader):
        batches = iter(images.split(32))

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch.numpy()}

    path = Path(path)
    folded = path.with_name(f".{path.name}.folded")
    # Batch norms go into the weights.
    quant_pre_process(str(float_onnx), str(folded), skip_symbolic_shape=True)
    quantization.quantize_static(
        folded,
        path,
        Images(),
        per_channel=True,
        reduce_range=not has_vnni(),
        weight_type=quantization.QuantType.QInt8,
        activation_type=quantization.QuantType.QUInt8,
        # Not Pad: OpenVINO cannot read one of ResNet20's shortcuts then.
        op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add"],
    )
    folded.unlink()
    model, about = onnx.load(path), {}
    for entry in onnx.load(float_onnx).metadata_props:
        if entry.key == KEY:
            about = json.loads(entry.value)
    # Runtimes round in different places of such a graph: no logits to compare with.
    about.pop("logits_of_probe")
    text = json.dumps(about | {"form": "int8 after training"})
    del model.metadata_props[:]
    for key, value in {KEY: text, "sha256": checksum(text, model)}.items():
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def ways_to_compute(
    saved: SavedNetwork, plain: SavedNetwork, images: Tensor, folder: str | Path
) -> dict[str, nn.Module]:
    """The shift (or integer) network and the plain one, in PyTorch and in the runtimes.

    The files for the runtimes go into `folder`. `images` (normalised, a few hundred) are what
    int8 after training is calibrated on. The names say network, arithmetic and runtime; those of a
    runtime that is not installed are left out, and with a warning those that a runtime cannot
    compute exactly on this processor.
    """
    folder = Path(folder)
    channels_last = copy.deepcopy(plain.network)
    channels_last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub
    ways: dict[str, nn.Module] = {
        "plain float32, PyTorch": plain.network,
        "plain float32, PyTorch channels_last": channels_last,
        "emulation, PyTorch": saved.network,
    }
    try:
        files = {
            "plain float32": export_onnx(plain, folder / "plain.onnx"),
            "trained codes int8": export_onnx(saved, folder / "codes.onnx"),
        }
        ptq = quantize_after_training(files["plain float32"], images, folder / "plain_int8.onnx")
        files["plain int8 after training"] = ptq
    except ModuleNotFoundError:
        return ways
    for title, runtime in (("ONNX Runtime", "onnxruntime"), ("OpenVINO", "openvino")):
        for name, path in files.items():
            try:
                ways[f"{name}, {title}"] = load_onnx(path, runtime).network
            except ModuleNotFoundError:
                continue
            except ValueError as refusal:
                warnings.warn(f"{name}, {title}: left out, {refusal}", stacklevel=2)
    return ways
