"""The guest: what runs inside an agent's process, in the agent's own interpreter.

Standard library only, Python 3.10 and newer, nothing of the rest of this project, and as little of the standard library
as possible: what is imported here is imported in every agent. The supervisor runs ``__main__.py`` of this folder in
place of the program; it loads its neighbours under the private name ``_meshsup``, so that an agent may import
``mesh_supervisor`` itself, and then runs the program as Python would.

The host reads only ``wire.py`` of it: both ends must agree on that.
"""
