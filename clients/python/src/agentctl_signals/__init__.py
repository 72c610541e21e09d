"""Pushes health signals to agentd: `SignalClient` numbers, buffers, sends and resends them, `push_once` sends some and ends."""

from agentctl.v1.resources_pb2 import Exit
from agentctl.v1.telemetry_pb2 import Signal

from .client import Options, Refused, SignalClient, Stats, push_once
from .target import BadTarget, Target, read_token

__all__ = [
    "BadTarget",
    "Exit",
    "Options",
    "Refused",
    "Signal",
    "SignalClient",
    "Stats",
    "Target",
    "push_once",
    "read_token",
]
