"""Finds notes that share a word with the question."""

from common import serve

NOTES = (
    "Tea needs water just off the boil and three minutes.",
    "Coffee needs water at 93 degrees.",
    "A train to the coast leaves at nine.",
)


def words(text: str) -> set[str]:
    return {word.strip(".,?!").lower() for word in text.split()}


def retrieve(question: dict[str, str]) -> list[str]:
    wanted = words(question.get("about", ""))
    return [note for note in NOTES if wanted & words(note)]


if __name__ == "__main__":
    serve(retrieve)
