"""Draws ``docs/way-of-an-event.svg``: boxes and arrows out of the table below.

``python -m tools.picture`` writes it; a test compares, so that the picture follows the text.
"""

from pathlib import Path
from xml.sax.saxutils import escape

TARGET = Path(__file__).resolve().parent.parent / "docs" / "way-of-an-event.svg"

LABEL = "The way of one event: from the publisher over RabbitMQ and the worker to SMTP and the audit"
FONT = 'font-family="system-ui, sans-serif" font-size="13"'

# name: x, y, width, height, colour, lines
BOXES: dict[str, tuple[int, int, int, int, str, tuple[str, ...]]] = {
    "publisher": (20, 40, 130, 60, "#eef2f7", ("publisher", "AMQP · HTTP · CLI")),
    "exchange": (200, 40, 150, 60, "#fdebd3", ("postbote.events", "topic exchange")),
    "lanes": (400, 40, 170, 60, "#fdebd3", ("lane queues", "transactional · bulk")),
    "parked": (200, 330, 150, 60, "#f9d6d5", ("postbote.parked", "with its reason")),
    "parse": (400, 150, 170, 44, "#dcebdd", ("parse", "CloudEvents 1.0")),
    "seen": (400, 210, 170, 44, "#dcebdd", ("recorded already?", "ask the audit")),
    "resolve": (400, 270, 170, 44, "#dcebdd", ("resolve", "org, partner, controller")),
    "render": (400, 330, 170, 44, "#dcebdd", ("render", "RFC 5322 bytes")),
    "send": (400, 390, 170, 44, "#dcebdd", ("send", "one reply per recipient")),
    "judge": (400, 450, 170, 44, "#dcebdd", ("outcome rules", "accepted · refused · retry …")),
    "store": (640, 262, 180, 60, "#eef2f7", ("SMTP records", "store, secrets encrypted")),
    "smtp": (640, 382, 180, 60, "#eef2f7", ("tenant's SMTP server", "SSL · STARTTLS")),
    "audit": (640, 450, 180, 60, "#d9e6f7", ("SYSTEMAUDIT", "OpenSearch, one per recipient")),
}

# path, label, label's x and y
ARROWS: tuple[tuple[str, str, int, int], ...] = (
    ("M150 70 H200", "", 0, 0),
    ("M350 70 H400", "", 0, 0),
    ("M485 100 V150", "", 0, 0),
    ("M485 194 V210", "", 0, 0),
    ("M485 254 V270", "", 0, 0),
    ("M485 314 V330", "", 0, 0),
    ("M485 374 V390", "", 0, 0),
    ("M485 434 V450", "", 0, 0),
    ("M640 292 H570", "", 0, 0),
    ("M570 412 H640", "", 0, 0),
    ("M570 478 H640", "recorded", 588, 494),
    ("M400 472 H275 V390", "cannot go on", 282, 462),
    ("M400 172 H275 V330", "invalid", 282, 164),
    ("M820 480 H850 V70 H570", "only now: ack", 762, 60),
    ("M275 100 V128 H230 V330", "no binding", 150, 210),
    ("M570 461 H592 V402 H570", "tried again", 590, 366),
)


def draw() -> str:
    """Return the picture as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 870 530" role="img" aria-label="{LABEL}" {FONT}>',
        '<rect width="870" height="530" fill="#ffffff"/>',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path d="M0 0 L8 4 L0 8 z" fill="#44546a"/></marker></defs>',
        '<rect x="385" y="130" width="200" height="380" rx="10" fill="none" stroke="#7a9a7d" stroke-dasharray="5 4"/>',
        '<text x="392" y="146" fill="#4d7350" font-size="11">worker</text>',
    ]
    for path, label, x, y in ARROWS:
        parts.append(f'<path d="{path}" fill="none" stroke="#44546a" stroke-width="1.4" marker-end="url(#a)"/>')
        if label:
            parts.append(f'<text x="{x}" y="{y}" fill="#44546a" font-size="11">{escape(label)}</text>')
    for x, y, width, height, colour, lines in BOXES.values():
        parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{colour}" stroke="#44546a"/>'
        )
        for number, line in enumerate(lines):
            weight = ' font-weight="600"' if number == 0 else ' fill="#44546a" font-size="11"'
            middle = y + height / 2 + (-2 if number == 0 else 14)
            parts.append(f'<text x="{x + width / 2}" y="{middle}" text-anchor="middle"{weight}>{escape(line)}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    TARGET.write_text(draw())
