"""The command `headwater`: puts the processes together, holds no rule of its own.

Here is what every command needs: settings and options, how answers look, how a command runs and ends. ``commands/``
has one module a family of commands, ``demo/`` and ``city/`` are what ``headwater demo`` and ``headwater demo city``
run, and ``servers/`` are the real servers of this machine that they and the tests run on.
"""
