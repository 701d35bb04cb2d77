"""Off-the-shelf salient-object networks behind one call: picture in, map out."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from configs.tools_schema import SaliencyConfig
from utils.data.images import MAX_GREY
from utils.errors import UserError, import_optional

REMBG = "rembg:"
_NEVER_ZERO = 1e-8

# PIL RGB -> (H, W) uint8, 255 the most salient, of the picture's size.
Predictor = Callable[[Image.Image], NDArray[np.uint8]]


def load_saliency_model(settings: SaliencyConfig, device: str) -> Predictor:
    """Return a function that makes the saliency map of a picture.

    Args:
        settings: the model and how pictures are prepared for it.
        device: "cpu" keeps an ONNX file off the GPU; otherwise it uses one where ONNX Runtime can.

    Raises:
        UserError: when the model is missing or damaged, or its library is not installed (with the pip command).
    """
    if settings.model.startswith(REMBG):
        return _load_rembg(settings.model.removeprefix(REMBG))
    if not settings.model:
        raise UserError("saliency.model is empty; give an ONNX file of a salient-object network, or rembg:u2net")
    return _load_onnx(settings, device)


def uses_gpu(settings: SaliencyConfig, device: str) -> bool:
    """Return whether an ONNX file would run on a GPU."""
    if settings.model.startswith(REMBG) or device == "cpu":
        return False
    runtime = import_optional("onnxruntime", "onnxruntime", "saliency.model")
    return "CUDAExecutionProvider" in runtime.get_available_providers()


def _load_rembg(name: str) -> Predictor:
    rembg = import_optional("rembg", "'rembg[cpu]'", f"saliency.model={REMBG}{name}")
    try:
        session = rembg.new_session(name)
    except Exception as error:  # unknown names and failed downloads raise whatever they like
        raise UserError(f"rembg has no model '{name}' or could not fetch it ({error}); see its list of models") from error

    def predict(image: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(rembg.remove(image, session=session, only_mask=True).convert("L").resize(image.size))

    return predict


def _load_onnx(settings: SaliencyConfig, device: str) -> Predictor:
    runtime = import_optional("onnxruntime", "onnxruntime", "saliency.model")
    if not Path(settings.model).is_file():
        raise UserError(f"saliency.model {settings.model} does not exist; give an ONNX file, or rembg:<name>")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # the program runs one process per core
    on_gpu = uses_gpu(settings, device)
    providers = ["CUDAExecutionProvider"] * on_gpu + ["CPUExecutionProvider"]
    try:
        session = runtime.InferenceSession(settings.model, options, providers=providers)
    except Exception as error:  # its exception classes are not public
        reason = str(error).splitlines()[0]
        raise UserError(f"saliency.model {settings.model} is no ONNX file that can run here ({reason})") from error
    if not 0 <= settings.output < len(session.get_outputs()):
        raise UserError(f"saliency.output is {settings.output}, but the file has {len(session.get_outputs())} outputs")
    return functools.partial(_predict_onnx, session, settings)


def _predict_onnx(session: Any, settings: SaliencyConfig, image: Image.Image) -> NDArray[np.uint8]:
    entry = session.get_inputs()[0]
    values = _prepare(image, _input_size(entry.shape, settings.input_size), settings)
    try:
        outputs = session.run([session.get_outputs()[settings.output].name], {entry.name: values})
    except Exception as error:
        raise UserError(f"saliency.model {settings.model} failed: {str(error).splitlines()[0]}") from error
    found = np.squeeze(np.asarray(outputs[0], np.float32))
    if found.ndim != 2:
        raise UserError(f"saliency.output {settings.output} has shape {found.shape}, expected one map; choose another output")
    return _to_grey(found, image.size, settings)


def _input_size(shape: list[Any], default: int) -> tuple[int, int]:
    """Return the (W, H) the network takes: fixed by the file, or the setting where it leaves them open."""
    if len(shape) != 4:
        raise UserError(f"saliency.model takes input of shape {shape}, expected (1, 3, H, W)")
    height, width = (side if isinstance(side, int) and side > 0 else default for side in shape[2:])
    return width, height


def _prepare(image: Image.Image, size: tuple[int, int], settings: SaliencyConfig) -> NDArray[np.float32]:
    """Return the normalised picture (1, 3, H, W)."""
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32)
    values = pixels / np.float32(MAX_GREY if settings.divide == "255" else max(float(pixels.max()), 1.0))
    values = (values - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)


def _to_grey(found: NDArray[np.float32], size: tuple[int, int], settings: SaliencyConfig) -> NDArray[np.uint8]:
    """Return the map (H, W) uint8 at the picture's `size` (W, H)."""
    if not np.isfinite(found).all():
        raise UserError(
            f"saliency.model {settings.model} gave values that are not finite; check saliency.mean and saliency.std"
        )
    if settings.sigmoid:
        found = np.asarray(1 / (1 + np.exp(-found)), np.float32)
    if settings.stretch:
        found = (found - found.min()) / np.float32(max(float(found.max() - found.min()), _NEVER_ZERO))
    resized = np.asarray(Image.fromarray(found).resize(size, Image.Resampling.BILINEAR))
    return np.rint(np.clip(resized, 0, 1) * MAX_GREY).astype(np.uint8)
