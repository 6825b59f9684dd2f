"""Where the simulated camera's images come from."""
