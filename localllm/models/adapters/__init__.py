"""LoRA adapters: their files, read and checked against the model that they are for."""
