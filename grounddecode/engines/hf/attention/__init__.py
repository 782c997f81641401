"""The attention path: kernels that are wrapped in place, and the rows that methods edit."""
