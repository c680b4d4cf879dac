"""The stores that records are written to, one file each."""
