"""What the journal keeps of one record."""

from worker.delivery.ports import Document

JournalEntry = Document
"""One audit record as it will be written: its `_id`, the month (YYYY.MM) of its index, its JSON."""
