"""Heap series, survivors, and what they grow with."""
