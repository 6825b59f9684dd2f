"""Reading and writing recorded bags."""
