"""From the text of mesh.toml to values: what config.py is made of.

    text ─► tables ─► reading (interpolation, env files, programs on disk) ─► agent_table ─► spec.py
                      every mistake on the way is kept (mistakes), with its line (toml_lines)

models holds the keys as pydantic models; reference writes them out for people.
"""
