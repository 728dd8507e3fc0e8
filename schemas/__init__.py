"""What crosses Postbote's process boundary: events in, SMTP records, audit records out.

Publishers and readers may import this package alone; it knows nothing of ``worker``.
"""
