"""What a finished training leaves: weights of one network alone, and a summary of what it took."""

import json
from pathlib import Path

from utils.distributed import Dist
from utils.files import write_text_atomic
from utils.memory import peak_memory
from utils.train_state import Position, PublishedNetwork
from utils.weights import save_weights


def write_outputs(model_dir: Path, network: PublishedNetwork, at: Position, images: int, place: Dist) -> Path:
    """Write `final.pth` (`network` alone, published names; the path returned) and `summary.json` into `model_dir`."""
    final = model_dir / "final.pth"
    save_weights(network.to_published(network.state_dict()), final)
    write_summary(model_dir / "summary.json", at, images, place)
    return final


def write_summary(path: Path, at: Position, images: int, place: Dist) -> None:
    """Write how long the training took, over how many images and epochs, on what, and its peak memory, as JSON."""
    summary = {
        "seconds": round(at.seconds, 1),
        "epochs": at.epoch,
        "images": images,
        "processes": place.world,
        "device": str(place.device),
        "peak_memory_gib": round(peak_memory(place.device), 3),
    }
    write_text_atomic(path, json.dumps(summary, indent=2) + "\n")
