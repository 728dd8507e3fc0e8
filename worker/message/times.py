"""Times as a mail shows them: the Date header's form, and those that people read.

Written out by hand, since ``strftime`` names days and months in the process's locale.
"""

from datetime import UTC, datetime
from functools import lru_cache
from math import floor

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MINUTE, _HOUR = 60, 3600


def date_time(value: datetime) -> str:
    """Return a time as RFC 5322 section 3.3 writes it, in UTC: ``Tue, 04 Nov 2025 08:30:00 +0000``."""
    return _date_time(floor(value.timestamp()))


@lru_cache(maxsize=256)  # a busy worker has many mails of one second
def _date_time(epoch_s: int) -> str:
    utc = datetime.fromtimestamp(epoch_s, UTC)
    # Of all the ways to print the numbers, isoformat is the fastest by far: YYYY-MM-DDTHH:MM:SS.
    iso = utc.isoformat(timespec="seconds")
    return f"{_DAYS[utc.weekday()]}, {iso[8:10]} {_MONTHS[utc.month - 1]} {iso[:4]} {iso[11:19]} +0000"


def moment(value: datetime) -> str:
    """Return a time as a reader anywhere understands it: ``4 Nov 2025, 08:30 UTC``."""
    utc = value.astimezone(UTC)
    return f"{utc.day} {_MONTHS[utc.month - 1]} {utc.year}, {utc.hour:02d}:{utc.minute:02d} UTC"


def span(seconds: float) -> str:
    """Return a duration in its two largest units: ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    units = ((whole // _HOUR, "h"), (whole % _HOUR // _MINUTE, "min"), (whole % _MINUTE, "s"))
    shown = [f"{count} {unit}" for count, unit in units if count]
    return " ".join(shown[:2]) or "0 s"
