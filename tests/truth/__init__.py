"""Captures against their ground truths."""
