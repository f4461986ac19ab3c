"""A fresh process that loads a model and makes one token; `startup` starts it and holds the watch.

Nothing is imported here that the contestants do not need themselves.
"""

from __future__ import annotations

import sys
from typing import Any

CONTEXT = 512  # tokens; what the cache takes is not the question
PROMPT = "Hello"


def main() -> None:
    """Make one token, say so, then say the most memory that the process held.

    Arguments of the process: contestant, model file, threads, KV type, folder of packed weights.
    """
    contestant, path, threads, kv_type, folder = sys.argv[1:]
    if contestant == "localllm":
        from localllm.errors import LocalLLMError

        try:
            _localllm(path, int(threads), kv_type, folder)
        except LocalLLMError as error:
            sys.exit(" ".join(str(error).split()))  # the last line is what `startup` says
    else:
        _llama_cpp(path, int(threads), kv_type)
    print(peak_memory() or 0, flush=True)


def peak_memory() -> int | None:
    """Bytes of memory that this process held at most, mapped files included; None: unknown."""
    try:
        # Not getrusage: a process inherits that number from the one which started it.
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _localllm(path: str, threads: int, kv_type: str, folder: str) -> None:
    from pathlib import Path

    from localllm.decoding.params import GenerationParams
    from localllm.engine.engine import Engine
    from localllm.ops.packed import PackedCache

    packed = PackedCache(Path(folder), sys.maxsize)
    engine = Engine.load(path, context=CONTEXT, threads=threads, kv_type=kv_type, packed=packed)
    params = GenerationParams(temperature=0, max_tokens=1)
    for _ in engine.generate(engine.tokenizer.encode(PROMPT), params):
        print("token", flush=True)


def _llama_cpp(path: str, threads: int, kv_type: str) -> None:
    import llama_cpp

    arguments: dict[str, Any] = {}
    if kv_type == "f32":
        f32 = llama_cpp.GGML_TYPE_F32
        arguments = {"type_k": f32, "type_v": f32}
    elif kv_type == "int8":
        q8_0 = llama_cpp.GGML_TYPE_Q8_0
        arguments = {"type_k": q8_0, "type_v": q8_0, "flash_attn": True}
    model = llama_cpp.Llama(
        path,
        n_ctx=CONTEXT,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
        **arguments,
    )
    model.create_completion(PROMPT, max_tokens=1, temperature=0)
    print("token", flush=True)
