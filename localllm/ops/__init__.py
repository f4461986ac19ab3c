"""The vocabulary of operations that models are written in, and its two executions.

`spec` is the vocabulary; `eager` runs it at once on torch; `tracer` records it as a `Program`,
which `native` lowers to the CPU core. Nothing here imports torch but `eager`.
"""
