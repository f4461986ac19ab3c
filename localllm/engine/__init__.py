"""Sequences that share and fork pages of KV memory, stepped together."""
