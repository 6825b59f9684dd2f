"""Processes of their own, and signals that end them."""
