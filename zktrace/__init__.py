"""zktrace: network traffic analyzer for Apache ZooKeeper's wire protocols."""

__version__ = "0.1.0"
