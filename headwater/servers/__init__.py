"""Real servers on this machine: fetched once into this user's cache folder, started, looked at, ended.

Knows nothing of demos or commands. The servers that only tests need are the tests'.
"""
