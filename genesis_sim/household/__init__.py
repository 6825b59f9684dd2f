"""Household scenes: things on tables, floors and shelves and in bins, before a robot's camera."""
