"""The analytics jobs, one file each."""
