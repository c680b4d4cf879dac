"""Moving records: the Kafka door, the replicator, the sink runner and the sinks."""
