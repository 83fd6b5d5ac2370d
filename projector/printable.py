"""Printable: a text of others, safe to show."""


def printable(text: str) -> str:
    """With what a terminal would obey escaped."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else character.encode("unicode_escape").decode()
        for character in text
    )
