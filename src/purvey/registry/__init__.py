"""Models by name and the engines that hold them; knows no tensor and starts no process itself."""
