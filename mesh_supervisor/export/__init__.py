"""PURE. A mesh as files for an engine that exists.

    mesh.toml, and what was found around it ─► compose ─► compose.yaml
                                            └► systemd ─► mesh.service

What the engine cannot express is said twice: as a comment in the file, and as a warning to whoever asked for it. yaml
writes the little YAML that is needed, references knows what mesh.toml takes from elsewhere, watching says which files
are synchronised, mark tells a file of ours from one that somebody has edited.
"""
