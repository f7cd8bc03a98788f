"""mlbd keeps a Linux router with several uplinks working. `docs/how-it-works.md` is the tour."""

__version__ = "0.1.0"
