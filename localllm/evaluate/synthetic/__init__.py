"""Random-weight model files of any architecture and shape: to benchmark and to test without one."""

from localllm.evaluate.synthetic.models import ARCHITECTURES, llama3_rope_factors, random_model

__all__ = ["ARCHITECTURES", "llama3_rope_factors", "random_model"]
