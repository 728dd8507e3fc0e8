"""Work on large events is done in a thread beside the loop: 24 MB take about 0.4 s to parse, and as long to render."""

# A message of this size takes a few milliseconds.
_LARGE_BYTES = 256 * 1024


def is_large(body: bytes) -> bool:
    """Whether work on an event with this body would hold everybody else up."""
    return len(body) >= _LARGE_BYTES
