"""The sensor city: the demo's way with stations, analytics on what they say, and stores for the results.

`run` is the city. What any demo needs is taken from `headwater.demo`.
"""
