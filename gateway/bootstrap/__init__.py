"""The bootstrap server (OMA LwM2M Core 1.1, section 6.1, and the Bootstrap-Pack of 1.2)."""
