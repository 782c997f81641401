"""The second lab: trained in stages so that attention sinks can emerge, none planted."""
