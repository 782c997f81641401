"""The documentation as a site: what is written by hand in docs/, and what the sources and results say of themselves."""
