"""Conversations: templates, reasoning, history and the interactive session."""
