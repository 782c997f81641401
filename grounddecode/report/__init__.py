"""Pictures, pages and tables made from run folders."""
