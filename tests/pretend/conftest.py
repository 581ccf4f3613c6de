"""The plugin is imported by `-p` alone: whoever imports it has the device."""

collect_ignore = ["plugin.py"]
