"""The bootstrap server (OMA LwM2M Core 1.1, section 6.1; the Bootstrap-Pack of 1.2): gives devices their servers and keys."""
