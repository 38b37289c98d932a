"""What a run was, for its manifest: the command, the versions, the machine, the data."""

import platform
from typing import Any

import lightning
import numpy
import torch

from genodiff import __version__
from genodiff.tasks.launch import command_line


def provenance(
    *, seed: int, device: torch.device, parameters: int, data: dict[str, Any]
) -> dict[str, Any]:
    """As plain JSON values; each session's end is added to `sessions`."""
    return {
        "command": command_line(),
        "version": __version__,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "numpy": numpy.__version__,
        },
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "seed": seed,
        "parameters": parameters,
        "data": data,
        "sessions": [],
    }
