"""Virtual LwM2M devices: the client side of the protocol."""
