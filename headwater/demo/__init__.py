"""The demo: the whole way on this machine, from sensors to a store, with a view while it runs and an audit at the end.

`run` is the demo, `way` what every demo is built upon; what a demo has of its own beyond these stands in `run`.
"""
