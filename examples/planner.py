"""Plans from a prompt file and from what the retriever knows; finds the retriever through the registry.

Try ``curl 'localhost:8104/?goal=make+tea'``. Where the answer says "prompt", a real agent would ask a model.
"""

from pathlib import Path
from string import Template
from typing import Any

from common import ask, serve

# Read once, at start: mesh.toml names it in `watch`, so an edit of the prompt restarts this agent.
PROMPT = Template((Path(__file__).parent / "prompts" / "plan.md").read_text(encoding="utf-8"))


def plan(question: dict[str, str]) -> dict[str, Any]:
    goal = question.get("goal", "make tea")
    notes = ask("retrieve", about=goal)
    return {"goal": goal, "notes": notes, "prompt": PROMPT.safe_substitute(goal=goal, notes="\n".join(notes))}


if __name__ == "__main__":
    serve(plan)
