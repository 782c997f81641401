"""Commands about the methods themselves."""
