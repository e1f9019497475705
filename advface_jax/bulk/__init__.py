"""Faces or features into protected feature shards: what, with which defence, by which engine."""
