"""Postbote: events from RabbitMQ become mail over SMTP and SYSTEMAUDIT records in OpenSearch."""

__version__ = "0.1.0"
