"""Crafted captures with hand-written expectations, and the engines against each other."""
