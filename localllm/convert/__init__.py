"""From a checkpoint, as transformers saves it, to a GGUF file."""

from localllm.convert.conversion import Conversion, convert_checkpoint

__all__ = ["Conversion", "convert_checkpoint"]
