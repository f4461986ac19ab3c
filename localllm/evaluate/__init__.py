"""Measuring models: quality, speed, and what fits."""
