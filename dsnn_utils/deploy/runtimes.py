"""Exported networks run by ONNX Runtime, OpenVINO or QONNX, as if they were PyTorch's."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dsnn_utils.checks import check_integer, require, require_choice
from dsnn_utils.deploy.export import checksum, probe
from dsnn_utils.training.networks import KEY, SavedNetwork, saved_network

RUNTIMES = ("onnxruntime", "openvino", "qonnx")
# Of the largest logit. A float32 batch norm may round otherwise and an activation be a step off;
# where a runtime gets the arithmetic wrong, logits are off by their own size.
TOLERATED_SHARE = 0.2


class _OnnxRuntime(nn.Module):
    def __init__(self, content: bytes, threads: int):
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def forward(self, x: Tensor) -> Tensor:
        (logits,) = self.session.run(None, {"image": np.ascontiguousarray(x.numpy())})
        return torch.from_numpy(logits)


class _OpenVino(nn.Module):
    def __init__(self, content: bytes, threads: int):
        super().__init__()
        import openvino

        core = openvino.Core()
        # Some processors would run what is float32 in bfloat16.
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        self.compiled = core.compile_model(core.read_model(content), "CPU", options)
        self.request = self.compiled.create_infer_request()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.request.infer({0: np.ascontiguousarray(x.numpy())})
        return torch.from_numpy(np.array(logits[0]))


class _Qonnx(nn.Module):
    """Node by node in NumPy: to check against, not to be fast."""

    def __init__(self, content: bytes, threads: int):
        super().__init__()
        import onnx
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.transformation.infer_shapes import InferShapes

        self.model = ModelWrapper(onnx.load_from_string(content)).transform(InferShapes())

    def forward(self, x: Tensor) -> Tensor:
        from qonnx.core.onnx_exec import execute_onnx

        images = np.ascontiguousarray(x.numpy())[:, None]
        logits = [execute_onnx(self.model, {"image": image})["logits"] for image in images]
        return torch.from_numpy(np.concatenate(logits))


_CLASSES = {"onnxruntime": _OnnxRuntime, "openvino": _OpenVino, "qonnx": _Qonnx}


def load_onnx(
    path: str | Path, runtime: str = "onnxruntime", threads: int | None = None
) -> SavedNetwork:
    """An exported network as `load_network` would return it; a runtime computes its `network`.

    That network is called, evaluated and measured like any other, on the CPU, but cannot be
    trained. `runtime` is one of RUNTIMES, "qonnx" for files of that form. `threads` are as many as
    PyTorch uses, unless given.

    Raises ValueError for a file that `export_onnx` did not write, one that is damaged, and where
    the runtime's logits are not those of the network that was exported; ModuleNotFoundError
    without the package of the runtime.
    """
    require_choice("runtime", runtime, RUNTIMES)
    threads = check_integer("threads", threads or torch.get_num_threads(), 1)
    import onnx

    name = f"path={str(path)!r}"
    require(os.path.isfile(path), f"{name}: must be a file that export_onnx wrote")
    content = Path(path).read_bytes()
    try:
        model = onnx.load_from_string(content)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        about = json.loads(metadata[KEY])
        same = metadata["sha256"] == checksum(metadata[KEY], model)
    except Exception as error:  # of many kinds, since a file may hold anything
        raise ValueError(f"{name}: is damaged or not by export_onnx ({error})") from error
    require(same, f"{name}: is damaged: its checksum is that of other content")
    needs = "qonnx" if about["form"] == "qonnx" else "onnxruntime or openvino"
    require(runtime in needs, f"runtime={runtime!r}: must be {needs} for this file")
    network = _CLASSES[runtime](content, threads).eval()
    if "logits_of_probe" in about:
        expected = torch.tensor(about["logits_of_probe"])
        off = (network(probe((len(about["mean"]), *about["image_size"]))) - expected).abs().max()
        share = (off / expected.abs().max().clamp(min=1e-30)).item()
        right = share <= TOLERATED_SHARE
        why = _WITHOUT_VNNI if runtime == "openvino" and not has_vnni() else ""
        off = f"computes other logits, off by {100 * share:.3g} %{why}"
        require(right, f"runtime={runtime!r}: {off}")
    return saved_network(network, about)


# Measured: weights of 127 times activations of 255 give 32,767 a pair of products in place of
# 64,770 on a Zen 3. The weights are powers of two, and 64 or 128 are among them.
_WITHOUT_VNNI = (
    ": this processor has no VNNI, and without it OpenVINO cuts off what two products of bytes add "
    "up to at 32,767; must be onnxruntime here, or activations of at most 7 bits"
)


def has_vnni() -> bool:
    """Whether the processor adds products of bytes in 32 bits at once (or is no x86)."""
    cpu: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return cpu.get("architecture") != "x86_64" or any(
        cpu.get(f"{v}_vnni") for v in ("avx", "avx512")
    )
