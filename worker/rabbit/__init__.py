"""RabbitMQ: pika's callbacks made awaitable, the topology, the consumer and the publisher."""
