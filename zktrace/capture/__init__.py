"""Where packets come from: capture files and link layers. Knows nothing of ZooKeeper."""
