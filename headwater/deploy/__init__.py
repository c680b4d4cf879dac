"""A fleet on Docker Swarm, described in one file: what is wanted, what is there, and the steps between the two.

The rules are pure (`fleet`, `desired`, `plan`, `convergence`) and tested without Docker; `swarm` is the only module
that speaks to Docker, and is thin. The stacks themselves are the files in ``stacks/``, which go through
``docker stack deploy`` as they would by hand.
"""
