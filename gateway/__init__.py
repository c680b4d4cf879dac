"""The edge: LwM2M devices on one side, the edge Kafka on the other, and durable state between."""
