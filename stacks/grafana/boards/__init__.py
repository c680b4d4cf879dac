"""The dashboards, one a file, each as ``BOARD``."""
