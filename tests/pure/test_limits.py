"""What is missing of the runtime is said with its cure."""

from __future__ import annotations

import pytest

from mesh_supervisor.limits import CURES, WORDS, Limitation, cure_for, limitation


@pytest.mark.parametrize(
    ("what", "why", "cure"),
    [
        ("warm", "polars starts threads", 'warm = "spare"'),
        ("warm", "pyarrow: SIGABRT at the end of a forked child", "never forked"),
        ("warm", "differs in OTEL_SERVICE_NAME from the other agents", "the same values"),
        ("sockets", "SO_REUSEPORT is set on port 8101", "without SO_REUSEPORT"),
        ("order", "granian binds out of sight", "uvicorn"),
        ("sockets", "binds in a child process", "first process"),
        ("runtime", "python is PyPy 3.11", "CPython"),
        ("runtime", "Python 3.9 has no runtime", "3.10 or newer"),
        ("runtime", "runs under debugpy", "meshsup run --debug"),
        ("runtime", "runtime = false in mesh.toml", "take `runtime = false` out"),
    ],
)
def test_a_known_reason_has_its_cure(what: str, why: str, cure: str) -> None:
    assert cure in limitation(what, why).cure


def test_python_3_10_is_new_enough_to_be_no_reason() -> None:
    assert cure_for("runtime", "Python 3.10 does something strange") == ""


def test_threads_are_no_reason_of_sockets() -> None:
    assert cure_for("sockets", "a thread has it") == ""


def test_a_cure_that_is_given_is_better() -> None:
    assert limitation("warm", "starts threads", "remove polars").cure == "remove polars"


def test_the_sentence() -> None:
    assert Limitation("sockets", "binds in C", "use uvicorn").sentence() == "stop-first: binds in C (use uvicorn)"
    assert Limitation("turtle", "it is one").sentence() == "turtle: it is one"


def test_cures_are_for_parts_that_there_are() -> None:
    assert {part for parts, _, _ in CURES for part in parts} <= WORDS.keys()
