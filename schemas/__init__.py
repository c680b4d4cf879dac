"""The wires: LwM2M paths, values and payload formats, Avro records and topics. Pure: no I/O, no clock."""
