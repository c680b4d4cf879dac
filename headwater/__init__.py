"""The command `headwater`: puts the processes together, holds no rule of its own."""
