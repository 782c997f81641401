"""The methods, one file each. Import them by name from the registry, or directly."""
