"""Campaigns: new firmware or software for many devices of a gateway, in stages. `machine` and `plan` are pure."""
