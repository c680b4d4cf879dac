"""The load generator: many virtual devices in one process, and what they measured."""
