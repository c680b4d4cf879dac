"""One gateway in several processes on one port: who owns which device, and how what is another's gets there."""
