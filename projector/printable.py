"""Printable: a text of others, safe to show."""


def printable(text: str, kept: str = "") -> str:
    """With what a terminal would obey escaped, new lines too; but for the characters in `kept`."""
    return "".join(
        character if character.isprintable() or character in kept else character.encode("unicode_escape").decode()
        for character in text
    )
