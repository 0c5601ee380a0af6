"""What can only be seen with a real Docker engine. Not collected by pytest: `tests/docker/run` runs it."""
