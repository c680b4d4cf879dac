"""Credentials of devices: what an LwM2M client must have or know to register, and the stores that hold it."""
