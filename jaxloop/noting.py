"""Notes on exceptions, each of them once."""


def note(error: BaseException, text: str) -> None:
    """Notes it once: JAX raises the same exception object again when it traces the same function."""
    if text not in getattr(error, "__notes__", ()):
        error.add_note(text)
