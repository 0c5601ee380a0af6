"""PURE. With which profiles a service is started, and how Compose may call them."""

from __future__ import annotations

import re

from mesh_supervisor.export.references import Written, for_compose, has_variable
from mesh_supervisor.export.surroundings import known_names, port_of
from mesh_supervisor.ordering import start_levels
from mesh_supervisor.spec import AgentSpec, MeshSpec

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def profiles_of(mesh: MeshSpec) -> dict[str, frozenset[str]]:
    """Each agent's own, and those of whoever depends on it: `up` starts it with them, and Compose would not. None: it
    is always started."""
    found: dict[str, frozenset[str]] = {}
    for level in reversed(start_levels(mesh.agents)):
        for name in level:
            own = frozenset(mesh.agents[name].profiles)
            others = [found[other.name] for other in mesh.agents.values() if _depends(other, name)]
            found[name] = own.union(*others) if own and all(others) else frozenset()
    return found


def _depends(spec: AgentSpec, name: str) -> bool:
    return any(dependency.agent == name for dependency in spec.depends_on)


def names_in_compose(mesh: MeshSpec, written: Written) -> dict[str, str]:
    """Profile → its name; a Reference where it comes from the environment."""
    found: dict[str, str] = {}
    for spec in mesh.agents.values():
        for profile, text in zip(spec.profiles, _texts(spec, written), strict=False):
            known = known_names(mesh, written, port_of(spec, written))
            found[profile] = for_compose(text, known) if has_variable(text) else name_of(profile)
    return found


def name_of(profile: str) -> str:
    if _NAME.fullmatch(profile):
        return profile
    return "profile-" + re.sub(r"[^a-zA-Z0-9_.-]+", "-", profile).strip("-.")


def renamed(spec: AgentSpec, written: Written) -> list[str]:
    """``profile-x for 'x'``"""
    texts = [text for text in _texts(spec, written) if not has_variable(text)]
    return [f"{name_of(text)} for '{text}'" for text in texts if name_of(text) != text]


def _texts(spec: AgentSpec, written: Written) -> list[str]:
    return [str(text) for text in written.of(spec.name, "profiles") or ()]
