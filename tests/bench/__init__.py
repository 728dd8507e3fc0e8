"""`make bench`: Postbote beside what people run today, on the same RabbitMQ and the same SMTP sinks.

`python -m tests.bench --help` lists what it measures; `measure` says how, and `peers` how the others are set up.
"""
