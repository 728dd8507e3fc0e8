"""Events become mail: `render` makes the RFC 5322 bytes, `choose_sender` says whose name they bear.

Both are pure functions of their arguments: the same event and sender give the same bytes on any
worker, today and on a resend next week.
"""

from worker.message.assembler import Rendered, render
from worker.message.dkim import DkimKey, sign
from worker.message.sender import ConfigFaultReason, Sender, choose_sender

__all__ = ["ConfigFaultReason", "DkimKey", "Rendered", "Sender", "choose_sender", "render", "sign"]
