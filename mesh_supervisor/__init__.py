"""meshsup: supervises a mesh of agents. The plan of the whole is in docs/decisions.md and README.md."""

__version__ = "0.1.0"
