"""Writes GGUF files through the `gguf` package."""
