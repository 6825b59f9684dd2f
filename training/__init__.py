"""Offline training of the models: data preparation, trainer, evaluation and pictures."""
