"""The methods, one file each, in rooms by what they change. Import them by name from the registry, or directly."""
