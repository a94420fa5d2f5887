"""From TCP segments to ordered bytes per connection. Knows nothing of ZooKeeper."""

from zktrace.flow.api import Endpoint, FlowCounters, FlowHandler, How, Limits
from zktrace.flow.tcp import Reassembler

__all__ = ["Endpoint", "FlowCounters", "FlowHandler", "How", "Limits", "Reassembler"]
