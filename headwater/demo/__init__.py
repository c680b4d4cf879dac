"""The demo: the whole way on this machine, from sensors to a store, with a view while it runs and an audit at the end.

`run` is the demo itself; `way`, and what that takes, the sensor city is built upon too.
"""
