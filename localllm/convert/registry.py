"""Finds the architecture of a checkpoint by the class that config.json names.

An architecture is a module of `localllm.convert.architectures` with

    def layout(checkpoint: Checkpoint) -> Layout
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from localllm.convert import architectures
from localllm.convert.checkpoint import Checkpoint
from localllm.convert.layout import Layout
from localllm.gguf.metadata import shown

_ARCHITECTURES = {  # class in transformers, without what follows (Model, ForCausalLM, ...)
    "Bert": "bert",
    "Gemma3": "gemma3",
    "Gemma3Text": "gemma3",
    "Llama": "llama",
    "Mistral": "llama",
    "Mixtral": "llama",
    "Phi3": "phi3",
    "Qwen2": "qwen2",
    "Qwen3": "qwen3",
    "Qwen3Moe": "qwen3moe",
}
_ENDS = ("ForCausalLM", "ForConditionalGeneration", "ForMaskedLM", "ForPreTraining", "Model")


def find_layout(checkpoint: Checkpoint) -> Layout:
    """The layout of a checkpoint's tensors.

    Raises:
        ModelFileError: an architecture or a way to store it that is not supported.
    """
    config = checkpoint.config
    if config.has("quantization_config"):
        method = config.object("quantization_config").text("quant_method", "unknown")
        raise config.fail(
            "quantization_config",
            f"a checkpoint that is quantised already ({shown(method)}) is not converted; "
            "take the one it was made from",
        )
    classes = config.array("architectures")
    for name in classes:
        for end in _ENDS:
            arch = _ARCHITECTURES.get(str(name).removesuffix(end))
            if arch is not None and str(name).endswith(end):
                module = import_module(f"{architectures.__name__}.{arch}")
                find: Callable[[Checkpoint], Layout] = module.layout
                return find(checkpoint)
    known = ", ".join(sorted(_ARCHITECTURES))
    raise config.fail("architectures", f"{shown(str(classes))} is not supported ({known} are)")
