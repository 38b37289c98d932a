"""Where the tests run the Triton kernels: on a GPU, or in Triton's interpreter on the CPU."""

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def quicken_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the time: it patches Triton's modules anew for every call of a function by a kernel."""
    from triton.runtime import interpreter

    patched = set()

    def call(self, *args, **kwargs):
        if self.fn.__module__ not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(self.fn.__module__)
        return self.rewrite()(*args, **kwargs)

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)
