"""Household scenes: things on tables, floors and shelves and in bins, as robots' cameras see them."""
