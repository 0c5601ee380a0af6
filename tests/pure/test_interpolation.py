"""``${…}`` in a string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_supervisor.mesh_toml.interpolation import CannotInterpolate, Interpolated, expand

VALUES = {"A": "1", "EMPTY": "", "port": "8101", "agents.my-agent.url": "http://x", "ODD": "${A}"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "1"),
        ("x${A}y${A}", "x1y1"),
        ("${B:-none}", "none"),
        ("${B:-}", ""),
        ("${B:-a:-b c/}", "a:-b c/"),
        ("${EMPTY:-none}", "none"),
        ("${EMPTY}", ""),
        ("${port}", "8101"),
        ("${agents.my-agent.url}/x", "http://x/x"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("${ODD}", "${A}"),  # once: a value is no template
        ("$A $(x) $$ {A}", "$A $(x) $$ {A}"),
    ],
)
def test_expand(text: str, expected: str) -> None:
    assert expand(text, VALUES.get) == expected


def test_a_string_remembers_that_it_was_a_template() -> None:
    assert isinstance(expand("${A}", VALUES.get), Interpolated)
    assert not isinstance(expand("plain", VALUES.get), Interpolated)


@pytest.mark.parametrize(
    "text", ["${NOPE}", "${", "${A", "${A:-${B}}", "${A?}", "${A-x}", "${}", "${ A }", "${agents.x}"]
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(CannotInterpolate):
        expand(text, VALUES.get)


@given(st.text())
def test_any_text_has_a_literal_form(text: str) -> None:
    assert "${" in text or expand(text, VALUES.get) == text
    assert expand("${X:-" + text.translate({ord(c): None for c in "{}"}) + "}", VALUES.get) == text.translate(
        {ord(c): None for c in "{}"}
    )
